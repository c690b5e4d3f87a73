"""A process that is lost is told in a line of our own words."""

import pytest

from streamgan.core.errors import StreamganError
from streamgan.train.process import naming_lost_processes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "[/x/gloo/transport/tcp/pair.cc:547] Read error [10.0.0.1]:29500: GLHF! \U0001f3d6\ufe0f",
            "its connection broke",
        ),
        (
            "[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1000ms for recv",
            "it did not answer in time",
        ),
    ],
)
def test_a_lost_process_is_told_in_our_own_words(text, reason):
    with (
        pytest.raises(StreamganError, match=rf"^runs/a: another process is lost \({reason}\); "),
        naming_lost_processes("runs/a"),
    ):
        raise RuntimeError(text)
