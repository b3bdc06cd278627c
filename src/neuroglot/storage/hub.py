"""Why the Hugging Face hub did not give what was asked for, in a few words, from whatever its clients raise."""

from collections.abc import Iterator

__all__ = ["hub_refusal"]

SAID = {
    "GatedRepoError": "it is gated: ask for access on its page, then run `hf auth login` or set HF_TOKEN",
    "RepositoryNotFoundError": "there is no such repository, or it is private and HF_TOKEN gives no access to it",
    "RevisionNotFoundError": "it has no such revision",
    "DisabledRepoError": "the hub has disabled it",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set and it is not in the cache",
    "LocalEntryNotFoundError": "the hub cannot be reached and it is not in the cache",
}
UNREACHED = (
    "Timeout",
    "ConnectError",
    "ConnectionError",
    "ReadError",
    "ProtocolError",
    "IncompleteRead",
    "NetworkError",
)


def hub_refusal(error: BaseException) -> str | None:
    """What an error says about the hub, or None where it is about something else.

    Libraries put sentences of their own around what the hub answered, some of them misleading ("make sure you don't
    have a local directory with the same name" for a slow network). So the errors that it was made of are looked at.
    The most telling one wins: a refusal is known before an answer that is late, and that before a status.
    """
    chain = list(_causes(error))
    for each in chain:
        for name in (kind.__name__ for kind in type(each).__mro__):
            if name in SAID and not (name == "LocalEntryNotFoundError" and len(chain) > 1):
                return SAID[name]
    for each in chain:
        status = getattr(getattr(each, "response", None), "status_code", None)
        if status is not None:
            return f"the hub answered with status {status}; try again later"
    for each in chain:
        if any(part in kind.__name__ for kind in type(each).__mro__ for part in UNREACHED):
            return (
                "the network or the hub broke off or is too slow; run the same again, files that arrived whole are kept"
            )
    if any(type(each).__name__ == "LocalEntryNotFoundError" for each in chain):
        return SAID["LocalEntryNotFoundError"]
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was raised from or while handling."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__
