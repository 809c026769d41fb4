"""The two dialects of the public workload clients, told apart by the name of the form field."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from cis_tasks.web.guard import PLAIN_GUARDED, TierOf
from cis_tasks.web.problems import Problem, plain_responses
from cis_tasks.web.waiting import (
    ClientGoneError,
    Taken,
    answer_of,
    deadline_passed,
    run,
    take_image,
)

LABEL, STEM_AND_LABEL = "myfile", "inputFile"

BINARY = {"type": "string", "contentMediaType": "application/octet-stream", "minLength": 1}
FORMS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "oneOf": [
                        {
                            "type": "object",
                            "required": [name],
                            "properties": {name: BINARY},
                            "additionalProperties": False,
                        }
                        for name in (LABEL, STEM_AND_LABEL)
                    ]
                }
            }
        },
    }
}

router = APIRouter(tags=["dialects"], dependencies=PLAIN_GUARDED)


@router.post(
    "/",
    response_class=PlainTextResponse,
    openapi_extra=FORMS,
    operation_id="classify_at_root",
    responses=plain_responses(400, 401, 403, 408, 409, 413, 415, 422, 429, 500, 503, 504),
)
@router.post(
    "/postApi/image",
    response_class=PlainTextResponse,
    openapi_extra=FORMS,
    operation_id="classify_at_post_api",
    responses=plain_responses(400, 401, 403, 408, 409, 413, 415, 422, 429, 500, 503, 504),
)
async def classify(request: Request, tier: TierOf) -> PlainTextResponse:
    """Classify one image and answer with a line of text.

    An image in the field `myfile` is answered with its label, one in `inputFile` with
    `stem:label`, where the stem is the file's name without its ending.
    """
    with tier.admission.waits():
        taken = await take_image(request, tier, (LABEL, STEM_AND_LABEL))
        try:
            news = await run(request, tier, taken.job, tier.settings.deadline_s)
        except ClientGoneError:
            raise Problem(400, "client_gone", "The client went away.") from None
        if news is None:
            raise await deadline_passed(request, tier, taken.job)
        label = str(answer_of(taken.job, news).result["label"])
        return PlainTextResponse(_line(taken, label))


def _line(taken: Taken, label: str) -> str:
    return label if taken.field == LABEL else f"{taken.image.stem}:{label}"
