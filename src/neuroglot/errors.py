"""What Neuroglot says when it cannot go on."""


class NeuroglotError(ValueError):
    """Bad input, told in one sentence that says what is wrong and what to do.

    The command line prints the sentence and exits with status 2.
    """


class NeuroglotWarning(UserWarning):
    """Something worth knowing about a result that is still valid, such as a method that found nothing."""
