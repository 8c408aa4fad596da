"""The one error a user causes and can mend."""


class InputError(ValueError):
    """Bad input from the user: exit code 2 and one line on stderr.

    The message names the file or flag, says what was found and what is needed, on a single line.
    """
