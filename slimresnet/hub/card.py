"""The model card of a folder: written with a run, renewed with its figures, left alone once a person edits it."""

from pathlib import Path

from slimresnet.errors import printable
from slimresnet.hub.card_text import SOURCES, is_as_rendered, render_model_card
from slimresnet.recipe.reading import read_recipe
from slimresnet.run_folder.changes import Change, is_written_here
from slimresnet.run_folder.names import CARD_NAME


def write_model_card(made: Change, home: Path) -> None:
    """
    Writes `README.md` of a run whose files are in a change, unless a person edited the one that is there.

    Args:
        home: the folder that is changed.
    """
    if is_edited(home / CARD_NAME):
        return
    name = read_recipe(made.files).hub_model_id or printable(home.resolve().name)
    (made.files / CARD_NAME).write_text(render_model_card(made.files, name), encoding="utf-8")
    made.own.add(CARD_NAME)  # the card's last line shows who wrote it, whatever the record says


def renew_model_card(made: Change, home: Path) -> None:
    """Writes the card of a run whose files are in the folder `home`, for a change that adds to them."""
    made.bring(name for name in SOURCES if is_written_here(home, name))
    write_model_card(made, home)


def say_if_edited(card: Path) -> None:
    """Prints of a card that a person edited why it is not renewed."""
    if is_edited(card):
        print(f"{card} was edited by hand and stays as it is")


def is_edited(card: Path) -> bool:
    """Whether there is a card, and it differs from what was written here."""
    if not card.exists():
        return False
    try:
        return not is_as_rendered(card.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        return True
