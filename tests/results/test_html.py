from hypothesis import given
from hypothesis import strategies as st

from espnet_spike.results.html import el
from tests.helpers.pages import Reader


@given(st.text())
def test_escaping(text):
    page = Reader(el("p", text, title=text))
    assert [tag for tag, _ in page.elements] == ["p"]
    shown = "".join(page.texts)
    assert len(shown) == len(text) or "\r" in text
    assert page.elements[0][1]["title"] == shown
