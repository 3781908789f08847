"""Names come from data: in a card, a page and a table they are text, whatever they say."""

import csv
import io
import json
import shutil
from itertools import pairwise

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from demo.build import space_card
from modeling_slimresnet import SlimResNetConfig
from slimresnet.api.predict import predict
from slimresnet.evaluation.spreadsheet import TableWriter
from slimresnet.hub.card_text import render_model_card
from slimresnet.hub.markdown import as_block, as_code, as_literal, as_text

NAMES = [
    "<img src=x onerror=alert(1)>", "a|b", "[x](javascript:alert(1))", "# h", "---", "one\n\n# two", "{{ 7 * 7 }}",
    "`code` ``` ~~~", "yes", "1e3", ": x", "![p](http://evil/p.png)", "https://evil.example", "www.evil.example",
    "*bold* _too_", "&lt;b&gt;", "<!-- written by SlimResNet -->", "back\\slash", "$x$ :smile: @user", "{% raw %}",
]  # fmt: skip


def rendered(markdown):
    """The tokens of a text, as the Hub's and GitHub's renderers see them, inline ones too."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = []
    for token in parser.parse(markdown):
        tokens += [token, *(token.children or [])]
    return tokens


def shown(tokens):
    return "".join(token.content for token in tokens if token.type in ("text", "code_inline"))


def one_line(name):
    return " ".join(name.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is_in_a_line_a_cell_and_a_heading(name):
    line = rendered(f"It knows {as_text(name)}, and more.")
    assert shown(line) == f"It knows {one_line(name)}, and more."
    assert {token.type for token in line} <= {"paragraph_open", "inline", "paragraph_close", "text", "text_special"}
    heading = rendered(f"# {as_text(name)}")
    assert shown(heading) == one_line(name) and heading[0].type == "heading_open"
    for write in (as_text, as_code):
        table = rendered(f"| a | b |\n|---|---|\n| {write(name)} | 2 |")
        assert shown(table) == f"ab{one_line(name)}2"
        assert sum(token.type == "td_open" for token in table) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_piece_of_code(name):
    [code] = [token for token in rendered(f"It is {as_code(name)}.") if token.type == "code_inline"]
    assert code.content.replace("\\|", "|") == one_line(name)  # outside of tables a bar keeps its mark
    block = as_block(f"line\n```\n~~~\n{name}", "yaml")
    assert [token.type for token in rendered(block)] == ["fence"] and json.loads(as_literal(name)) == name


@given(st.text(max_size=30))
def test_any_text_is_text(name):
    assert {token.type for token in rendered(f"a {as_text(name)} b")} <= {
        "paragraph_open", "inline", "paragraph_close", "text", "text_special",
    }  # fmt: skip
    assert len(rendered(as_block(name, "text"))) == 1


@pytest.fixture(scope="module")
def hostile(trained, tmp_path_factory):
    """A finished run in a folder of a bad name, of classes and data of bad names."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("names") / '<b>"run"\n---\n`x`')
    config = json.loads((folder / "config.json").read_text())
    config["id2label"], config["label2id"] = dict(enumerate(NAMES[:10])), {}
    (folder / "config.json").write_text(json.dumps(config))
    results = json.loads((folder / "all_results.json").read_text())
    results |= dict.fromkeys(("train_device", "test_precision"), "<script>|`x`\n# h")
    bad = "<i>`data`](x)\n```\n# h"
    results |= {name: bad for name in results if name.endswith("_dataset")}
    (folder / "all_results.json").write_text(json.dumps(results))
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text()) | {"dataset_name": bad, "dataset_revision": bad}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "test_corruptions.json").write_text(json.dumps({"none": {NAMES[0]: [0.5] * 5, "a|b": [0.5] * 5}}))
    facts = {"pixel_values": "<b>", "bytes": 1, "same_class": 1, "checked_images": 2, "checked_on": "a|b\n# h"}
    (folder / "exports.json").write_text(json.dumps({"`<b>|`": facts}))
    return folder


def test_a_card_holds_names_as_text(hostile):
    results = json.loads((hostile / "all_results.json").read_text())
    (hostile / "all_results.json").write_text(
        json.dumps(results | {"test_corruption_accuracy": 0.5, "test_corruption_samples": 9})
    )
    card = render_model_card(hostile, hostile.name)
    metadata = ModelCard(card).data.to_dict()
    assert metadata["model-index"][0]["name"] == hostile.name and metadata["pipeline_tag"] == "image-classification"
    body, _, mark = card[card.index("\n# ") :].rpartition("<!-- written by")
    tokens = rendered(body)
    assert "sha256 of the text above" in mark
    text = shown(tokens)
    assert all(one_line(name) in text for name in NAMES[:10]), text
    assert not [token for token in tokens if token.type in ("html_block", "html_inline")]
    links = [token.attrs["href"] for token in tokens if token.type == "link_open"]
    assert all(link.startswith(("https://huggingface.co/datasets/", "https://github.com/")) for link in links)
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert (
        headings[1:] == ["Use", "Results", "Other forms", "Training", "Limits", "Sources"] and "\n" not in headings[0]
    )
    images = [token.attrs["src"] for token in tokens if token.type == "image"]
    assert images and all(image.startswith("figures/") for image in images)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_of_a_page_is_yaml_whatever_its_name(name):
    card = space_card(name, "mit")
    assert ModelCard(card).data.to_dict() == {"title": name, "sdk": "static", "license": "mit"}
    assert card.endswith("Nothing that is dropped there leaves it.\n")


FORMULAS = [
    "=1+1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1+1", "＠A1", '=HYPERLINK("http://evil")',
    "'", "''=1", "-", "--1",
]  # fmt: skip
SEPARATED = ["a;=1", "a\t=1", "a\r=1", "a\n=1"]
ORDINARY = [
    "00.png",
    "more/10.png",
    "cat",
    "ä b",
    "1",
    "-7",
    "+1.5",
    "0.123456",
    "",
    'a"b',
    "a,b",
    "n'est",
    "a=b",
    "1-2",
]


def written(rows):
    file = io.StringIO(newline="")
    table = TableWriter(file)
    for row in rows:
        table.write(row)
    return file.getvalue()


@pytest.mark.parametrize("name", [*FORMULAS, *SEPARATED])
def test_no_cell_is_a_formula_in_any_spreadsheet(name):
    text = written([[name, "3"]])
    for separator in (",", ";", "\t"):
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            for cell in row:
                assert not cell.lstrip().startswith(("=", "+", "-", "@", "＝", "＠"))


@given(st.lists(st.lists(st.text(max_size=5) | st.sampled_from(FORMULAS), min_size=1), min_size=1))
def test_every_name_can_be_had_back(rows):
    read = csv.reader(io.StringIO(written(rows), newline=""))
    assert [[cell.removeprefix("'") for cell in row] for row in read] == rows


def test_what_is_ordinary_stays_to_the_byte():
    rows = [["ID", "Labels"], *([name, "3"] for name in ORDINARY)]
    plain = io.StringIO(newline="")
    csv.writer(plain, lineterminator="\n").writerows(rows)
    assert written(rows) == plain.getvalue()


def test_predict_writes_names_that_run_nothing(untrained, tmp_path):
    config = SlimResNetConfig.from_pretrained(untrained)
    config.id2label = {index: f"={index}+1" for index in range(10)}
    config.save_pretrained(untrained)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("=cmd.png", "'quoted.png", "cat.png"):
        Image.new("RGB", (32, 32)).save(folder / name)
    predict(untrained, folder, output=tmp_path / "o.csv", labels="names", probabilities=True)
    header, *rows = csv.reader((tmp_path / "o.csv").open(newline=""))
    assert header == ["ID", "Labels", *(f"'={index}+1" for index in range(10))]
    assert [row[0] for row in rows] == ["''quoted.png", "'=cmd.png", "cat.png"]
    assert all(row[1].startswith("'=") for row in rows)
