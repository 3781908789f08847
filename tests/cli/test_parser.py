"""The parser of all command lines: which flag was meant, whole names alone, dashes as well as underscores."""

import re

import pytest

from slimresnet.cli import eval as evaluation
from slimresnet.cli import export, predict
from slimresnet.cli.parser import Parser


@pytest.fixture
def parser():
    parser = Parser(prog="tool.py", synonyms={"lr": "learning_rate", "epochs": "num_train_epochs", "sugar": "sweets"})
    parser.add_argument("model")
    group = parser.add_argument_group("optimisation")
    group.add_argument("--learning_rate", type=float, required=True)
    group.add_argument("--num_train_epochs", type=int)
    parser.add_argument_group("output").add_argument("--probabilities", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["m", "--probabilites"], "unknown flag --probabilites: did you mean --probabilities?"),
        (["m", "--learning-rte=3"], "unknown flag --learning-rte: did you mean --learning_rate?"),
        (["m", "--lr", "3"], "unknown flag --lr: did you mean --learning_rate?"),
        (["m", "--epoch=3"], "unknown flag --epoch: did you mean --num_train_epochs?"),
        (["m", "--learning", "3"], "unknown flag --learning: did you mean --learning_rate?"),
        (["m", "--sugar"], "unknown flag --sugar: --help lists what there is"),  # a synonym of a flag that it lacks
        (["m", "n", "--learning_rate=3"], "unexpected argument n: --help lists what there is"),
        (["m"], "the following arguments are required: --learning_rate"),
    ],
)
def test_what_was_meant_is_said_and_the_exit_code_is_argparses(parser, capsys, words, said):
    with pytest.raises(SystemExit) as left:
        parser.parse_args(words)
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"tool.py: error: {said}"


@pytest.mark.parametrize("help", ["--help", "-h"])
def test_help_is_given_whatever_else_is_wrong(parser, capsys, help):
    for words in (["m", "--bogus", help], [help, "--bogus=3"], ["--learning-rate", "much", help]):
        with pytest.raises(SystemExit) as left:
            parser.parse_args(words)
        said = capsys.readouterr()
        assert left.value.code == 0 and "--probabilities" in said.out and said.err == ""
    assert parser.parse_args(["--learning_rate=1", "--", help]).model == help


def test_dashes_stand_for_underscores_in_names_and_stay_in_values(parser, monkeypatch):
    parsed = parser.parse_args(["m-n", "--learning-rate=-1e-3", "--num-train-epochs", "4"])
    assert (parsed.model, parsed.learning_rate, parsed.num_train_epochs) == ("m-n", -1e-3, 4)
    assert parser.parse_args(["--learning_rate", "-1", "--", "--learning-rate"]).model == "--learning-rate"
    assert parser.parse_args(["--learning_rate", "1", "--my picture.png"]).model == "--my picture.png"
    monkeypatch.setattr("sys.argv", ["tool.py", "m", "--learning-rate", "2"])
    assert parser.parse_args().learning_rate == 2


@pytest.mark.parametrize(
    ("script", "titles"),
    [
        (export, ["format", "data", "output"]),
        (evaluation, ["data", "scoring", "network", "output"]),
        (predict, ["data", "network", "output"]),
    ],
)
def test_help_is_grouped_and_each_flag_says_what_it_is(script, titles, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as left:
        script.parse(["--help"])
    said = re.sub(r"\n {20,}", "  ", capsys.readouterr().out)  # help that begins below its flag
    assert left.value.code == 0
    assert re.findall(r"^([a-z]+):$", said, re.MULTILINE) == ["options", *titles]
    flags = re.findall(r"^  (--\w+)(.*)$", said, re.MULTILINE)
    assert len(dict(flags)) == len(flags) > 10
    for flag, rest in flags:
        text = re.split(r"\s{2,}", rest)[-1]
        assert len(text.split()) > 3, f"{flag} has no help"
        assert not re.match(r"(The same|As for|Its|Of )", text), f"the help of {flag} leans on its neighbour: {text}"


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        (predict, ["m", "i", "--outptu=o.csv"], "unknown flag --outptu: did you mean --output?"),
        (predict, ["m", "i", "--output=o", "--batch-size=3"], "did you mean --per_device_eval_batch_size?"),
        (export, ["m", "--output_dir=o", "--dataset=d"], "unknown flag --dataset: did you mean --dataset_name?"),
        (export, ["m", "--output_dir=o", "--quantized"], "unknown flag --quantized: did you mean --quantize?"),
    ],
)
def test_a_mistyped_flag_of_a_script(script, words, said, capsys):
    with pytest.raises(SystemExit) as left:
        script.parse(words)
    assert left.value.code == 2 and said in capsys.readouterr().err
