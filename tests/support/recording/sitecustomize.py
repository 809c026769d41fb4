"""Notes every call to AWS of a process that has this folder on its path, and of its children.

One line of JSON per call goes to the file ``CIS_RECORD_AWS_CALLS``: service, operation, and the
parameters that say what it is about. `support.permissions` reads it.
"""

from __future__ import annotations

import json
import os
from typing import Any

FILE = os.environ.get("CIS_RECORD_AWS_CALLS")

if FILE:
    from botocore.client import BaseClient

    _call = BaseClient._make_api_call

    def _noted(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
        about: dict[str, Any] = {n: v for n, v in parameters.items() if isinstance(v, str)}
        about.pop("MessageBody", None)
        about["given"] = sorted(parameters)
        if operation == "CreateOrUpdateTags":
            about["AutoScalingGroupName"] = parameters["Tags"][0]["ResourceId"]
        line = {"service": self.meta.service_model.service_name, "operation": operation, **about}
        with open(FILE, "a") as file:  # noqa: PTH123
            file.write(json.dumps(line) + "\n")
        return _call(self, operation, parameters)

    BaseClient._make_api_call = _noted
