from __future__ import annotations

import pytest

from tests.processes.resp import Incomplete, value_end

VALUES = [
    b"+OK\r\n",
    b":-1\r\n",
    *(b"_\r\n", b"#t\r\n", b",3.25\r\n", b"(12345678901234567890\r\n"),
    *(b"$0\r\n\r\n", b"$-1\r\n", b"*0\r\n", b"*-1\r\n"),
    b"$6\r\na\r\n+b\n\r\n",
    b"!5\r\nERR x\r\n",
    b"=7\r\ntxt:abc\r\n",
    b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
    b"~2\r\n:1\r\n:2\r\n",
    b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n",
    b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
    b"|1\r\n+ttl\r\n:3\r\n*1\r\n:1\r\n",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_ends_where_the_next_begins(value):
    assert value_end(value + b"+next\r\n") == len(value)
    for cut in range(len(value)):
        with pytest.raises(Incomplete):
            value_end(value[:cut])
