"""The error class for what a user can put right, and validation errors in words that say how."""

from pydantic import ValidationError

# What pydantic says in terms of Python, said in terms of YAML.
WANTED = {
    "model_type": "wanted keys with values",
    "dict_type": "wanted keys with values",
    "list_type": "wanted a list",
    "tuple_type": "wanted a list",
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
        if problem["type"] == "missing":
            lines.append(f"{file}: {key}: missing: wanted this key")
        elif problem["type"] == "value_error":  # raised by our own validators, which say what they found
            lines.append(f"{file}: {key}: {problem['msg'].removeprefix('Value error, ')}")
        else:
            message = WANTED.get(problem["type"], problem["msg"].replace("Input should be", "wanted"))
            if problem["type"] == "extra_forbidden":
                message = "unknown key (misspelt, or of another section)"
            found = repr(problem["input"])
            lines.append(f"{file}: {key}: {message} (found {found if len(found) < 80 else found[:77] + '...'})")
    return "\n".join(lines)


def one_line(error: Exception) -> str:
    """An error's message with all white space made single: YAML errors span lines."""
    return " ".join(str(error).split())
