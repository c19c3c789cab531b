"""A bucket in memory that speaks as much of S3 as a store needs, with or without put-if-absent."""

import re
import threading
import urllib.parse
from email.utils import formatdate, parsedate_to_datetime
from xml.sax.saxutils import escape, unescape

from serving import Handler, Served


class PlainBucket(Served):
    """`conditions`: whether it heeds `If-None-Match: *`; many a server takes it and does not."""

    def __init__(self, conditions):
        self.conditions = conditions
        self.objects = {}
        self.lock = threading.Lock()
        self.listen(_Handler)

    def put(self, name, content, if_absent):
        with self.lock:
            if if_absent and self.conditions and name in self.objects:
                return False
            self.objects[name] = (content, formatdate(usegmt=True))
            return True


class _Handler(Handler):
    def parts(self):
        """The object's name without its bucket, and the query."""
        url = urllib.parse.urlsplit(self.path)
        name = urllib.parse.unquote(url.path).lstrip("/").partition("/")[2]
        return name, urllib.parse.parse_qs(url.query, keep_blank_values=True)

    def answer(self, status, content=b"", **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_PUT(self):
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        made = self.owner.put(self.parts()[0], content, self.headers.get("If-None-Match") == "*")
        if made:
            self.answer(200, ETag='"1"')
        else:
            self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")

    def do_DELETE(self):
        with self.owner.lock:
            self.owner.objects.pop(self.parts()[0], None)
        self.answer(204)

    def do_POST(self):
        """The only one is the deletion of many objects."""
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        names = re.findall("<Key>(.*?)</Key>", asked)
        with self.owner.lock:
            for name in names:
                self.owner.objects.pop(unescape(name), None)
        gone = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
        self.answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def do_GET(self):
        name, query = self.parts()
        if not name:
            return self.answer(200, self.listing(query), Content_Type="application/xml")
        content, changed = self.owner.objects.get(name, (None, None))
        if content is None:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        told = {"Last_Modified": changed, "ETag": '"1"'}
        wanted = self.headers.get("Range")
        if not wanted:
            return self.answer(200, content, **told)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        begin = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last) + 1, len(content)) if first and last else len(content)
        told["Content_Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
        return self.answer(206, content[begin:end], **told)

    do_HEAD = do_GET

    def listing(self, query):
        """All names below a prefix in one page, or the folders directly below it."""
        prefix, after = (query.get(name, [""])[0] for name in ("prefix", "start-after"))
        cut = query.get("delimiter", [""])[0]
        entries, folders = [], set()
        for name, (content, changed) in sorted(dict(self.owner.objects).items()):
            if not name.startswith(prefix) or name <= after:
                continue
            if cut and cut in name[len(prefix) :]:
                folders.add(prefix + name[len(prefix) :].split(cut)[0] + cut)
                continue
            moment = time_of(changed)
            entries.append(
                f"<Contents><Key>{escape(name)}</Key><LastModified>{moment}</LastModified>"
                f'<ETag>"1"</ETag><Size>{len(content)}</Size></Contents>'
            )
        entries += [
            f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            for folder in sorted(folders)
        ]
        text = "".join(entries)
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{text}</ListBucketResult>".encode()


def time_of(changed):
    """The time of a header as listings write it."""
    return parsedate_to_datetime(changed).strftime("%Y-%m-%dT%H:%M:%S.000Z")
