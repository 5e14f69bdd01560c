"""Write the tables of a set and score it."""

import json

from espnet_spike.bin import score


def write(path, table):
    path.write_text("".join(f"{key} {value}\n" for key, value in table.items()))


def run_score(data, folder, *more):
    tokens = data.parent.parent / "tokens.txt"
    arguments = ["--token_type", "char", "--token_list", str(tokens), "--out", str(folder.parent)]
    score.main([*arguments, *more, f"test={data}"])
    return json.loads((folder / "result.json").read_text())
