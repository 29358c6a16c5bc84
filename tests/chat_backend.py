"""The backend of the tests of chats and completions."""

from __future__ import annotations

from served import ServedFake

from sgen.protocol import GenerateRequest


class Fake(ServedFake):
    """Knows what it was asked last."""

    @property
    def last(self) -> GenerateRequest:
        request = self.requests[-1]
        assert isinstance(request, GenerateRequest)
        return request
