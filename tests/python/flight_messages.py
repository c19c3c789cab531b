"""Commands of Flight SQL for pyarrow, which has no client of its own for them."""


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def command(name, query):
    """A command of Flight SQL as google.protobuf.Any, without generated code."""
    kind = f"type.googleapis.com/arrow.flight.protocol.sql.{name}"
    return field(1, kind.encode()) + field(2, field(1, query.encode()))
