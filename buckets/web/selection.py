"""Keys and folders in the fields of a form.

Browsers make CR LF of every line break in a form's value, so that a key with one in it would come back as another key.
Such texts travel percent-encoded, in a field whose name says so: ``quoted-key`` instead of ``key``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, unquote

from django.http import QueryDict

from buckets.errors import KeyInvalid
from buckets.names import key_error
from buckets.services.groups import MAX_OPERATIONS
from keys.errors import Invalid
from keys.permissions import Permission
from keys.rights import KeyRights


class Field(NamedTuple):
    """A form's field, and the value that it has to have."""

    name: str
    value: str


def field_of(name: str, text: str) -> Field:
    """The field in which a text comes back as it is."""
    if "\n" in text or "\r" in text:
        return Field(f"quoted-{name}", quote(text, safe=""))
    return Field(name, text)


def texts_of(data: QueryDict, name: str) -> list[str]:
    """The texts that came in such fields, each once."""
    quoted = (unquote(text) for text in data.getlist(f"quoted-{name}"))
    return list(dict.fromkeys([*data.getlist(name), *quoted]))


def text_of(data: QueryDict, name: str) -> str:
    """The last of them; empty: there is none."""
    return next(reversed(texts_of(data, name)), "")


def checked(name: str, text: str) -> str:
    """A key, or the beginning of keys. Raises KeyInvalid."""
    if text and (problem := key_error(text)) is not None:
        raise KeyInvalid(errors={name: [problem]})
    return text


@dataclass(frozen=True, slots=True)
class Selection:
    """What somebody chose in a list: objects by their keys, and folders by their prefixes."""

    keys: list[str]
    folders: list[str]

    @classmethod
    def of(cls, data: QueryDict) -> "Selection":
        """From the fields ``key`` and ``prefix`` of a form or a query. Raises Invalid."""
        chosen = cls(keys=texts_of(data, "key"), folders=texts_of(data, "prefix"))
        count = len(chosen)
        if not count:
            raise Invalid("Choose at least one object first.")
        if count > MAX_OPERATIONS:
            raise Invalid(f"At most {MAX_OPERATIONS:,} can be chosen at once; these are {count:,}.")
        for text in chosen:
            if (problem := key_error(text)) is not None:
                raise Invalid(problem)
        if not all(folder.endswith("/") for folder in chosen.folders):
            raise Invalid("A folder ends with a slash.")
        return chosen

    def __len__(self) -> int:
        return len(self.keys) + len(self.folders)

    def __iter__(self) -> Iterator[str]:
        yield from self.folders
        yield from self.keys

    @property
    def fields(self) -> list[Field]:
        """What a form holds to send the same again."""
        return [field_of("prefix", folder) for folder in self.folders] + [field_of("key", key) for key in self.keys]

    def require(self, rights: KeyRights, permission: Permission, *, bucket: str) -> None:
        """Raises PermissionDenied unless it holds for each of them, and for all that lies in the folders."""
        rights.require(permission, bucket=bucket)
        for key in self.keys:
            rights.require(permission, bucket=bucket, key=key)
        for folder in self.folders:
            rights.require(permission, bucket=bucket, key=folder, prefix=True)
