"""Validation errors in one line that a person can act on."""

from pydantic import ValidationError


def explain(file: str, error: ValidationError) -> str:
    """One line a problem: file, key, what is wrong, what was found."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "(whole file)"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key (misspelt, or of another section)"
        if problem["type"] == "missing":
            lines.append(f"{file}: {key}: missing: wanted this key")
        else:
            found = repr(problem["input"])
            lines.append(f"{file}: {key}: {message} (found {found if len(found) < 80 else found[:77] + '...'})")
    return "\n".join(lines)
