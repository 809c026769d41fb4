"""CloudWatch alarms as their documents say: period, statistic, dimensions, metric math."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cis_tasks.errors import PermanentError
from scaling.alarms import Alarm, State, evaluate

Series = dict[int, float]
"""Period (its number since the epoch) → datapoint."""

OPERATORS: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Metric:
    """One statistic of one metric.

    Attributes:
        namespace: its namespace.
        name: its name.
        dimensions: name and value of each; a metric with others is another metric.
        statistic: makes a datapoint of the values of a period.
    """

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]
    statistic: str

    @classmethod
    def from_aws(cls, metric: Mapping[str, Any], statistic: str) -> Metric:
        """A metric as alarms and metric queries name it."""
        dimensions = [(one["Name"], one["Value"]) for one in metric.get("Dimensions") or []]
        return cls(metric["Namespace"], metric["MetricName"], tuple(dimensions), statistic)

    def read(self, cloudwatch: Any, period_s: int, first: int, end: int) -> Series:
        """Its datapoints of the periods from ``first`` until before ``end``.

        Raises:
            botocore.exceptions.ClientError: CloudWatch did not tell.
        """
        found = cloudwatch.get_metric_statistics(
            Namespace=self.namespace,
            MetricName=self.name,
            Dimensions=[{"Name": name, "Value": value} for name, value in self.dimensions],
            StartTime=datetime.fromtimestamp(first * period_s, UTC),
            EndTime=datetime.fromtimestamp(end * period_s, UTC),
            Period=period_s,
            Statistics=[self.statistic],
        )
        return {
            math.floor(point["Timestamp"].timestamp() / period_s): float(point[self.statistic])
            for point in found["Datapoints"]
        }


@dataclass(frozen=True)
class Watch:
    """An alarm of the running stack.

    Attributes:
        name: its name.
        alarm: when it goes off.
        metrics: id → metric that it reads.
        expression: what is computed of them, by their ids; empty where there is one metric.
        actions: ARNs of what it does when it is on.
    """

    name: str
    alarm: Alarm
    metrics: Mapping[str, Metric]
    expression: str
    actions: tuple[str, ...]

    @property
    def scales(self) -> bool:
        """Whether it acts on a scaling policy."""
        return any(":scalingPolicy:" in action for action in self.actions)

    @classmethod
    def from_aws(cls, document: Mapping[str, Any], period_s: int | None = None) -> Watch:
        """An alarm as DescribeAlarms gives it.

        Args:
            document: with one metric, or with metric queries of which one is an expression.
            period_s: its period where the document is wrong about it.

        Raises:
            PermanentError: it makes no sense, or uses what is not evaluated here.
        """
        queries = document.get("Metrics") or []
        stats = {q["Id"]: q["MetricStat"] for q in queries if "MetricStat" in q}
        if queries:
            period = period_s or max(int(stat["Period"]) for stat in stats.values())
            metrics = {n: Metric.from_aws(s["Metric"], s["Stat"]) for n, s in stats.items()}
            expression = _expression(document["AlarmName"], queries)
        else:
            period = period_s or int(document["Period"])
            metrics = {"m": Metric.from_aws(document, document.get("Statistic") or "Average")}
            expression = ""
        enabled = document.get("ActionsEnabled", True)
        return cls(
            name=document["AlarmName"],
            alarm=Alarm.from_aws({**document, "Period": period}),
            metrics=metrics,
            expression=expression,
            actions=tuple(document.get("AlarmActions") or ()) if enabled else (),
        )

    def datapoints(self, cloudwatch: Any, now_s: float) -> list[float | None]:
        """The newest full periods' datapoints, oldest first; None where there is none."""
        period_s = self.alarm.period_s
        end = math.floor(now_s / period_s)
        first = end - self.alarm.range_periods
        read = {n: m.read(cloudwatch, period_s, first, end) for n, m in self.metrics.items()}
        return [self._at(period, read) for period in range(first, end)]

    def look(self, cloudwatch: Any, now_s: float, before: State) -> Look:
        """The alarm's state now.

        Raises:
            botocore.exceptions.ClientError: CloudWatch did not tell.
        """
        points = self.datapoints(cloudwatch, now_s)
        newest = next((value for value in reversed(points) if value is not None), None)
        return Look(self, evaluate(self.alarm, points, before), before, newest)

    def _at(self, period: int, read: Mapping[str, Series]) -> float | None:
        values = {name: series[period] for name, series in read.items() if period in series}
        if not self.expression:
            return values.get("m")
        return compute(self.expression, values)


@dataclass(frozen=True)
class Look:
    """An alarm as it is now.

    Attributes:
        watch: which.
        state: its state.
        before: its state until now.
        value: its newest datapoint.
    """

    watch: Watch
    state: State
    before: State
    value: float | None

    @property
    def beyond(self) -> float:
        """The newest datapoint minus the threshold."""
        return (self.value or 0.0) - self.watch.alarm.threshold

    def __str__(self) -> str:
        value = "no data" if self.value is None else f"{self.value:.3g}"
        return f"{self.watch.name} is {self.state} at {value}"


def compute(expression: str, values: Mapping[str, float]) -> float | None:
    """A metric math expression of one period: + - * /, numbers, ids, and FILL(id, number).

    None where a metric has no datapoint in the period or something is divided by zero, as
    CloudWatch leaves such a datapoint out.

    Raises:
        PermanentError: it uses more than that.

    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
    """
    try:
        return _value(ast.parse(expression, mode="eval").body, values)
    except ZeroDivisionError:
        return None
    except SyntaxError as error:
        raise _not_evaluated(expression) from error


def _value(node: ast.AST, values: Mapping[str, float]) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.Name):
        return values.get(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand, values)
        return None if inner is None else -inner
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _value(node.left, values), _value(node.right, values)
        if left is None or right is None:
            return None
        return float(OPERATORS[type(node.op)](left, right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "FILL":
        filled = [_value(argument, values) for argument in node.args]
        return next((value for value in filled if value is not None), None)
    raise _not_evaluated(ast.unparse(node))


def _expression(name: str, queries: Iterable[Mapping[str, Any]]) -> str:
    """The one expression or metric that an alarm with metric queries looks at."""
    returned = [query for query in queries if query.get("ReturnData", True)]
    if len(returned) != 1:
        raise _not_evaluated(f"{len(returned)} results of {name}")
    expression = str(returned[0].get("Expression") or returned[0]["Id"])
    compute(expression, {})  # refused now, not at each look
    return expression


def _not_evaluated(what: str) -> PermanentError:
    return PermanentError(
        "math_not_evaluated",
        f"The laptop fleet does not evaluate {what!r}.",
        "Use one result of + - * /, numbers, ids of metrics and FILL.",
    )


def concerns(document: Mapping[str, Any], groups: Sequence[str]) -> bool:
    """Whether an alarm acts on one of the groups or watches it."""
    named = [
        one["Value"]
        for source in (document, *_metrics_of(document))
        for one in source.get("Dimensions") or []
    ]
    acted = [
        action.partition("autoScalingGroupName/")[2].partition(":")[0]
        for action in document.get("AlarmActions") or []
    ]
    return bool(set(groups) & {*named, *acted})


def _metrics_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    queries = document.get("Metrics") or []
    return [query["MetricStat"]["Metric"] for query in queries if "MetricStat" in query]
