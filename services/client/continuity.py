"""How the messages of several calls become one stream. Pure: knows no gRPC call.

Owns the count of tokens, and with it the promise that none is missing and none comes twice.
"""

from __future__ import annotations

from trivium.v1 import orchestrator_pb2 as pb


class BrokenStream(Exception):
    """The messages don't make one stream: a defect of whoever sent them."""


class Continuity:
    """The stream of one request, over as many calls as it takes.

    Args:
        request: What is asked for. One that resumes begins with the tokens that it says are there.
    """

    def __init__(self, request: pb.GenerateRequest) -> None:
        self.num_tokens = request.resume_from
        """Completion tokens that the caller has."""
        self.finished = False
        """Whether it had its last message."""
        self.used_rule: pb.UsedRule | None = request.began_with if request.HasField("began_with") else None
        """What decides about the request, once that is known: whoever goes on with it is told."""
        self._most = request.max_new_tokens if request.HasField("max_new_tokens") else None
        self._told_prompt = False

    def take(self, response: pb.GenerateResponse) -> pb.GenerateResponse:
        """Appends a message; returns it as the caller is to see it.

        Raises:
            BrokenStream: It doesn't continue what came before.
        """
        if self.finished:
            raise BrokenStream("a message came after the last one")
        num_new = len(response.token_ids)
        if (
            not num_new
            == len(response.sources)
            == len(response.divergence_probabilities)
            == len(response.text_lengths)
        ):
            raise BrokenStream("a message doesn't tell of each of its tokens whose it is")
        self.num_tokens += num_new
        if self._most is not None and self.num_tokens > self._most:
            raise BrokenStream(f"{self.num_tokens} tokens arrived, at most {self._most} were asked for")
        if response.HasField("finish"):
            self.finished = True
            num_written = response.finish.usage.num_completion_tokens
            if num_written != self.num_tokens:
                raise BrokenStream(f"{self.num_tokens} of {num_written} tokens arrived; the answer has gaps")
        if response.HasField("prompt"):
            # Each call tells of it; the stream does once.
            if self._told_prompt:
                response.ClearField("prompt")
            self._told_prompt = True
        if response.HasField("used_rule"):
            self.used_rule = self.used_rule or response.used_rule
        return response

    def end(self) -> None:
        """A call ended with OK.

        Raises:
            BrokenStream: Without the last message.
        """
        if not self.finished:
            raise BrokenStream("the answer ended without its last message")
