"""The error class for what a user can put right, and validation errors in words that say how."""

from pydantic import ValidationError

# What pydantic says in terms of Python, said in terms of YAML.
WANTED = {
    "model_type": "wanted keys with values",
    "dict_type": "wanted keys with values",
    "list_type": "wanted a list",
    "tuple_type": "wanted a list",
    "missing": "missing: wanted this key",
    "extra_forbidden": "unknown key (misspelt, or of another section)",
}


class InputError(ValueError):
    """A file, param, option or environment variable that the user has to change; the message says which and how.

    A command prints it as one line, without a traceback (`stages.core.run.stage.errors_in_one_line`).
    """


def explain(file: str, error: ValidationError) -> str:
    """One line a problem: file, key, what is wrong, what was found."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "(whole file)"
        message = WANTED.get(problem["type"], problem["msg"].replace("Input should be", "wanted"))
        if problem["type"] == "value_error":  # raised by our own validators, which say what they found
            message = message.removeprefix("Value error, ")
        elif problem["type"] != "missing":
            found = repr(problem["input"])
            message += f" (found {found if len(found) < 80 else found[:77] + '...'})"
        lines.append(f"{file}: {key}: {message}")
    return "\n".join(lines)


def one_line(error: Exception) -> str:
    """An error's message with all white space made single: YAML errors span lines."""
    return " ".join(str(error).split())
