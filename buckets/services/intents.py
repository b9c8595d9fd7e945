"""Intents that come back at confirm: unpacked and verified once, then remembered."""

import functools

from volume_server.intent import Intent, IntentInvalid, from_text, is_genuine, unpack
from volumes.services.presign import CURRENT_INTENT_SECRET_ID, intent_secret

REMEMBERED = 16_384


@functools.lru_cache(maxsize=REMEMBERED)
def genuine_intent(text: str) -> Intent | None:
    """The intent of this base64url text; None where it is none that this master signed.

    A text stays genuine or not for as long as the process lives, so the answer is kept: a lease's intent comes back
    in every batch that has one of its needles.
    """
    try:
        raw = from_text(text)
        intent = unpack(raw)
    except IntentInvalid:
        return None
    if intent.secret_id != CURRENT_INTENT_SECRET_ID or not is_genuine(raw, intent_secret(intent.secret_id)):
        return None
    return intent
