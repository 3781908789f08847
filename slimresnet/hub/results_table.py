"""The table of scores in a model card: a row a split, a column a score that one of them has."""

from slimresnet.data.task import Task
from slimresnet.evaluation.rows import TEST_PREFIX
from slimresnet.evaluation.scores import is_scored, is_shown, shown_scores, task_of_results
from slimresnet.hub.markdown import as_code


def results_table(results: dict, titles: dict[str, str]) -> list[list[str]]:
    """
    The table as rows of cells, its heading first; empty where no split was scored.

    Args:
        titles: what each split is called, by what the names of its figures begin with.
    """
    prefixes = [prefix for prefix in titles if is_scored(results, f"{prefix}_")]
    if not prefixes:
        return []
    task = task_of_results(results)
    rows = [["split", "images", *_columns(task)]]
    for prefix in prefixes:
        samples = results.get(f"{prefix}_samples")
        rows.append([titles[prefix], "" if samples is None else f"{samples:,}", *_cells(task, results, prefix)])
    filled = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    return [[row[column] for column in filled] for row in rows]


def _columns(task: Task) -> list[str]:
    columns = []
    for name, score in shown_scores(task).items():
        columns += [score.column, "with test-time augmentation"] if name == task.main_score else [score.column]
    return columns


def _cells(task: Task, results: dict, prefix: str) -> list[str]:
    """A cell a column; empty where the score was not measured, or says nothing of its own."""
    cells = []
    for name, score in shown_scores(task).items():
        value = results.get(f"{prefix}_{name}")
        if name == task.main_score:  # which may have an interval, and stands with test-time augmentation too
            cells += [_with_interval(name, results, prefix), _with_policy(name, results, prefix)]
        else:
            is_empty = value is None or not is_shown(score, results, prefix)
            cells.append("" if is_empty else format(value, score.form))
    return cells


def _with_policy(name: str, results: dict, prefix: str) -> str:
    """The interval, and the policy where it is not that of the test row, which a sentence names."""
    cell, policy = _with_interval(name, results, prefix, "_tta"), results.get(f"{prefix}_tta")
    if not cell or policy is None:
        return ""
    return cell if policy == results.get(f"{TEST_PREFIX}_tta") else f"{cell}, {as_code(policy)}"


def _with_interval(name: str, results: dict, prefix: str, ending: str = "") -> str:
    value, low, high = (results.get(f"{prefix}_{name}{bound}{ending}") for bound in ("", "_low", "_high"))
    if value is None:
        return ""
    return f"{value:.2%}" if low is None or high is None else f"{value:.2%} ({low:.2%} – {high:.2%})"
