"""Tables of a user's own recordings."""

TEXTS = ["Zwölf Boxkämpfer", "jagen Viktor quer", "über den großen", "Sylter Deich"]


NAMES = ["a 1.flac", "b.ogg", "c.wav", "d.wav"]


def write_csv(path, delimiter=",", header=("path", "sentence", "client_id")):
    rows = [
        header,
        *((n, f'"{t}"', f"s{i % 2}") for i, (n, t) in enumerate(zip(NAMES, TEXTS, strict=True))),
    ]
    path.write_text("\n".join(delimiter.join(row) for row in rows) + "\n", encoding="utf-8-sig")
    return path
