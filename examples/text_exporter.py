"""Serve the metrics of a node in the Prometheus text format: `python text_exporter.py`.

Ctrl-C ends it. The argument is the port, by default 9464. Then open http://127.0.0.1:9464/metrics.
"""

import contextlib
import http.server
import sys
from collections.abc import Iterable

from signedwire import Distribution, Identity, MetricKind, Sample
from signedwire.sync import Node


def as_text(samples: Iterable[Sample]) -> str:
    lines, last = [], ""
    for metric, labels, value in samples:
        name = f"signedwire_{metric.name}" + "_total" * (metric.kind is MetricKind.COUNTER)
        if name != last:
            text = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {metric.kind}"]
        last = name
        if isinstance(value, Distribution):
            for bound, count in value.buckets:
                lines.append(f'{name}_bucket{{le="{bound:g}"}} {count}'.replace('"inf"', '"+Inf"'))
            lines += [f"{name}_sum {value.sum}", f"{name}_count {value.count}"]
        else:  # label values come from a fixed set of words, so they need no escapes
            pairs = ",".join(f'{label}="{text}"' for label, text in labels.items())
            lines.append(f"{name}{{{pairs}}} {value}" if pairs else f"{name} {value}")
    return "\n".join(lines) + "\n"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = as_text(node.metrics()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9464
    with (
        contextlib.suppress(KeyboardInterrupt),
        Node(Identity.generate()) as node,
        http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server,
    ):
        print(f"http://127.0.0.1:{server.server_port}/metrics", flush=True)
        server.serve_forever()
