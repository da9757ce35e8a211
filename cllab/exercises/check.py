"""check(): judges an answer, says in words what is wrong, and never stops the lesson.

    [ ] not attempted    [!] the code raised    [x] a wrong value    [v] right

The lesson's own cases come first, then random ones against the reference in float64; within a case the type
is compared first, then the shape, then the numbers. The text is plain ASCII and the same in every run, so a
notebook with its outputs can be compared word for word.
"""

import contextlib
import copy
import difflib
import io
import math
import re
import traceback
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch

from cllab.exercises.exercise import Case, Exercise, exercises
from cllab.exercises.progress import remember

_failures: dict[str, int] = {}  # failed attempts in this kernel, by exercise id


def check(exercise_id: str, answer: Any, debug: bool = False) -> Any:
    """Print one verdict on `answer`; return it if it is right, and the reference otherwise.

    `f = check("L02.3", f)` therefore always leaves a working `f` behind, and the cells below run whether the
    exercise was done or not; the last printed line says which of the two it is. An unattempted answer raises
    NotImplementedError or is None or `...`. From the third failed attempt in a row on, the text points at the
    solution. The learner's prints are swallowed and nothing is raised, except KeyboardInterrupt (the stop
    button); `debug=True` lets the prints through and shows the traceback.
    """
    exercise = exercises().get(exercise_id) if isinstance(exercise_id, str) else None
    if exercise is None:
        print(_unknown(exercise_id))
        return answer
    try:
        verdict = _judge(exercise, answer, debug)
    except Exception as error:  # an answer so odd that comparing it failed
        verdict = _Verdict("!", f"the answer cannot be compared: {_message(error)}", exercise.hint)
    _failures[exercise.id] = _failures.get(exercise.id, 0) + 1 if verdict.state in "!x" else 0
    remember(exercise.id, verdict.state)
    print(_text(exercise, verdict))
    return answer if verdict.state == "v" else exercise.reference


class _Verdict(NamedTuple):
    state: str  # one of " ", "!", "x", "v"
    finding: str
    hint: str = ""


_NOT_ATTEMPTED = _Verdict(" ", "not attempted yet. Fill the blank above and run this cell again.")


class _Raised(NamedTuple):
    error: BaseException


def _judge(exercise: Exercise, answer: Any, debug: bool) -> _Verdict:
    if answer is None or answer is ...:
        return _NOT_ATTEMPTED
    if exercise.is_value:
        return _judge_value(exercise, answer)
    if not callable(answer):
        return _Verdict("!", f"the answer must be a function, got {_show(answer)}", exercise.hint)
    generator = torch.Generator().manual_seed(0)
    n_random = exercise.n_random if exercise.random_case else 0
    drawn = [Case("", exercise.random_case(generator)) for _ in range(n_random)]
    for number, case in enumerate([*exercise.cases, *drawn], start=1):
        verdict = _judge_case(exercise, answer, case, debug, is_first=number == 1)
        if verdict is not None and verdict.state == "x":
            place = f"case {number} of {len(exercise.cases)} ({case.name})"
            if not case.name:
                place = f"random case {number - len(exercise.cases)} of {n_random}"
            return verdict._replace(finding=f"{place}   {verdict.finding}")
        if verdict is not None:
            return verdict
    counted = f"{len(exercise.cases)} cases" + (f" + {n_random} random cases" if n_random else "")
    return _Verdict("v", f"{counted} agree with {exercise.agrees_with}")


def _judge_value(exercise: Exercise, answer: Any) -> _Verdict:
    if _difference(exercise.reference, answer, exercise.tolerance) is None:
        return _Verdict("v", f"{_show(answer)} is right")
    for wrong in exercise.known_wrong:
        if _difference(wrong.answer, answer, exercise.tolerance) is None:
            return _Verdict("x", f"{_show(answer)} is not it", wrong.sentence)
    return _Verdict("x", f"{_show(answer)} is not it", exercise.hint)


def _judge_case(exercise: Exercise, answer: Any, case: Case, debug: bool, is_first: bool) -> _Verdict | None:
    """The verdict on one call; None when it is right."""
    args = copy.deepcopy(case.args)
    got = _call(answer, args, debug)
    if isinstance(got, _Raised):
        if isinstance(got.error, NotImplementedError) and is_first:
            return _NOT_ATTEMPTED
        finding = f"your code raised {_message(got.error)}   on input {_show(case.args)}"
        return _Verdict("!", finding, exercise.hint)
    if (got is None or got is ...) and is_first:
        return _NOT_ATTEMPTED
    expected = exercise.reference(*copy.deepcopy(case.args))
    difference = _difference(expected, got, exercise.tolerance)
    if difference is not None:
        if not case.name:
            difference += f"   on input {_show(case.args)}"
        return _Verdict("x", difference, _named_mistake(exercise, answer, case) or exercise.hint)
    if _difference(case.args, args, 0.0) is not None:
        return _Verdict("x", "the value is right, but your code changed its input", "work on a copy of it")
    return None


def _named_mistake(exercise: Exercise, answer: Any, failed: Case) -> str:
    """The sentence of the known wrong answer that agrees with `answer` on every case of the lesson, or ''."""
    cases = [*exercise.cases, failed]
    for wrong in exercise.known_wrong:
        pairs = [[_call(f, copy.deepcopy(case.args)) for f in (wrong.answer, answer)] for case in cases]
        raised = any(isinstance(value, _Raised) for pair in pairs for value in pair)
        if not raised and all(_difference(*pair, exercise.tolerance) is None for pair in pairs):
            return wrong.sentence
    return ""


def _call(function: Any, args: tuple, debug: bool = False) -> Any:
    """function(*args), or what it raised; SystemExit counts as raised, KeyboardInterrupt passes through."""
    swallow = contextlib.nullcontext() if debug else contextlib.redirect_stdout(io.StringIO())
    with swallow, contextlib.redirect_stderr(io.StringIO()):
        try:
            return function(*args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if debug and not isinstance(error, NotImplementedError):
                print(traceback.format_exc())
            return _Raised(error)


def _difference(expected: Any, got: Any, tolerance: float) -> str | None:
    """'expected ...   got ...' for the first of type, shape and value that differs; None when equal."""
    want, have = _plain(expected), _plain(got)
    if _kind(want) != _kind(have):
        return f"expected {_article(_kind(want))}, {_show(want)}   got {_article(_kind(have))}, {_show(have)}"
    if _shape(want) != _shape(have):
        return f"expected shape {_shape(want)}   got shape {_shape(have)}"
    return None if _equal(want, have, tolerance) else f"expected {_show(want)}   got {_show(have)}"


def _equal(want: Any, have: Any, tolerance: float) -> bool:
    if _kind(want) != _kind(have):
        return False
    if isinstance(want, list):
        pairs = zip(want, have, strict=False)
        return len(want) == len(have) and all(_equal(w, h, tolerance) for w, h in pairs)
    if isinstance(want, dict):
        return want.keys() == have.keys() and all(_equal(want[key], have[key], tolerance) for key in want)
    if _kind(want) == "number":
        both_nan = math.isnan(want) and math.isnan(have)
        return both_nan or math.isclose(want, have, rel_tol=tolerance, abs_tol=tolerance)
    return bool(want == have)


def _plain(value: Any) -> Any:
    """Tensors, arrays, tuples and lists as nested lists of Python numbers; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist()) if value.dtype == object else value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _kind(value: Any) -> str:
    if isinstance(value, Real) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _shape(value: Any) -> tuple[int, ...]:
    return (len(value), *_shape(value[0] if value else None)) if isinstance(value, list) else ()


def _show(value: Any, limit: int = 160) -> str:
    """A short ASCII rendering that is the same in every run: six digits, no memory addresses."""
    return _clean(_render(_plain(value), is_tuple=isinstance(value, tuple)), limit)


def _render(value: Any, is_tuple: bool = False) -> str:
    if isinstance(value, list):
        inner = ", ".join(_render(item) for item in value)
        return f"({inner}{',' if len(value) == 1 else ''})" if is_tuple else f"[{inner}]"
    if isinstance(value, float):
        return repr(float(f"{value:.6g}"))
    return repr(value)


def _message(error: BaseException) -> str:
    try:
        said = str(error)
    except Exception:
        said = ""
    return _clean(f"{type(error).__name__}: {said}" if said else type(error).__name__, limit=200)


def _clean(text: str, limit: int) -> str:
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(text.split()))
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def _text(exercise: Exercise, verdict: _Verdict) -> str:
    lines = [f"[{verdict.state}] {exercise.id} {exercise.title}: {verdict.finding}"]
    if verdict.hint:
        lines.append(f"    hint: {verdict.hint}")
    failures = _failures[exercise.id]
    if failures >= 3:
        lines.append(f"    attempt {failures}: open the fold 'Solution {exercise.id}' under the exercise")
    if verdict.state == "v":
        lines.append("    used below: your answer")
    else:
        lines.append(f"    used below: {exercise.agrees_with}")
    return "\n".join(lines)


def _unknown(exercise_id: Any) -> str:
    known = list(exercises())
    near = difflib.get_close_matches(str(exercise_id).upper(), known, n=3, cutoff=0.3) or known[:3]
    return f"There is no exercise {_show(exercise_id)}. The nearest: {', '.join(near)}."
