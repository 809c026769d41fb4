"""FastAPI with the model in its thread pool."""

from __future__ import annotations

import sys

import uvicorn
from classifier import Classifier
from fastapi import FastAPI, UploadFile
from fastapi.responses import PlainTextResponse

app = FastAPI()
classifier = Classifier()


@app.post("/", response_class=PlainTextResponse)
def classify(myfile: UploadFile) -> str:
    return classifier(myfile.file.read())


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
