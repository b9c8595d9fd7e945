"""Intents that come back at confirm: unpacked and verified once, then remembered."""

import functools

from volume_server.intent import Intent, IntentInvalid, from_text, is_genuine, unpack
from volumes.services.presign import intent_secret
from volumes.services.store import intent_secret_id

REMEMBERED = 16_384


def genuine_intent(text: str) -> Intent | None:
    """The intent of this base64url text; None where it is none that this master signed with the secret in force."""
    intent = _intent_with_good_mac(text)
    return intent if intent is not None and intent.secret_id == intent_secret_id() else None


@functools.lru_cache(maxsize=REMEMBERED)
def _intent_with_good_mac(text: str) -> Intent | None:
    """A MAC stays good or not for as long as the process lives, so the answer is kept: a lease's intent comes back
    in every batch that has one of its needles.
    """
    try:
        raw = from_text(text)
        intent = unpack(raw)
    except IntentInvalid:
        return None
    return intent if is_genuine(raw, intent_secret(intent.secret_id)) else None
