"""The parser of all command lines: which flag was meant, whole names alone, dashes as well as underscores."""

import pytest

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


def test_dashes_stand_for_underscores_in_names_and_stay_in_values(parser, monkeypatch):
    parsed = parser.parse_args(["m-n", "--learning-rate=-1e-3", "--num-train-epochs", "4"])
    assert (parsed.model, parsed.learning_rate, parsed.num_train_epochs) == ("m-n", -1e-3, 4)
    assert parser.parse_args(["--learning_rate", "-1", "--", "--learning-rate"]).model == "--learning-rate"
    assert parser.parse_args(["--learning_rate", "1", "--my picture.png"]).model == "--my picture.png"
    monkeypatch.setattr("sys.argv", ["tool.py", "m", "--learning-rate", "2"])
    assert parser.parse_args().learning_rate == 2
