"""LitServe with two workers."""

import sys
from typing import Any

import litserve
from classifier import Classifier
from fastapi import Request


class Api(litserve.LitAPI):
    """The model behind LitServe's four steps."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the model."""
        self.classifier = Classifier()

    def decode_request(self, request: Request) -> bytes:
        """The image's bytes."""
        return request["myfile"].file.read()

    def predict(self, x: bytes) -> str:
        """Its label."""
        return self.classifier(x)

    def encode_response(self, output: str) -> Any:
        """The answer."""
        return {"label": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(api_path="/classify"), accelerator="cpu", workers_per_device=2)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
