"""Servers in threads that end with the tests' process, where no real archive is needed."""

from __future__ import annotations

import http.server
import threading

from pynetdicom import AE, evt
from pynetdicom.sop_class import SegmentationStorage


class _Empty(http.server.BaseHTTPRequestHandler):
    """Answers every query as an archive without studies does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


def serve_empty_archive() -> str:
    """Start a DICOMweb service without studies and return its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/dicom-web"


def serve_segmentation_storage() -> str:
    """Start an application entity that accepts segmentations and return its address."""
    entity = AE(ae_title="VIEWER")
    entity.add_supported_context(SegmentationStorage)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0)])
    return f"VIEWER@127.0.0.1:{server.server_address[1]}"
