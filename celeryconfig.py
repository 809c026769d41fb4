"""Every Celery setting, each with its reason."""

from os import environ

from kombu.entity import Exchange, Queue

from cis_tasks.app import QueueUrls
from cis_tasks.pipelines import PIPELINES
from cis_tasks.settings import settings

# Broker: SQS, found and signed for by boto3's standard chain (AWS_ENDPOINT_URL, roles, region).
broker_url = "sqs://"
broker_transport = "cis_tasks.broker.transport:Transport"  # leases, remote control, events
worker_consumer = "cis_tasks.broker.consumer:Consumer"  # no message stops it, nothing is hoarded
broker_transport_options = {
    "predefined_queues": QueueUrls(),  # never list or create job queues: the template owns them
    "queue_name_prefix": settings().control_prefix,  # control and reply queues, one per process
    "wait_time_seconds": settings().poll_wait_s,  # 20 s, SQS's longest: fewest empty receives
    "delete_window_seconds": 0.25,  # ten deletes to a call at 40 jobs/s; done jobs may come again
}
broker_connection_retry_on_startup = True  # a worker may boot before its network does

# Queues: one FIFO queue per pipeline, each task to its own.
task_queues = [
    Queue(pipeline.queue, Exchange(""), routing_key=pipeline.queue)
    for pipeline in PIPELINES.values()
]
task_routes = {pipeline.task: {"queue": pipeline.queue} for pipeline in PIPELINES.values()}
task_default_queue = next(iter(PIPELINES.values())).queue  # Celery's "celery" does not exist
task_create_missing_queues = False  # a misspelt -Q must fail, not wait for ever on nothing

# Nothing lost: a message goes when its effect is in S3, not before.
task_acks_late = True
task_reject_on_worker_lost = True  # a killed pool process gives its message back
task_acks_on_failure = True  # bad input: its failure is recorded first, see cis_tasks.tasks
task_acks_on_timeout = False  # a job out of time goes back, and in the end to the dead letters
worker_prefetch_multiplier = 1  # a GPU host hoards no work that others could do

# One job at a time per process; CUDA lives in the pool's child only.
worker_pool = "prefork"
worker_concurrency = 1
task_time_limit = settings().time_limit_s  # a hung job ends
task_track_started = True  # "started" tells waiting from running

# Messages carry S3 references: JSON, and nothing that could run code.
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]
result_accept_content = ["json"]
task_protocol = 2  # what the Lambda writes

# Results: states in the output bucket; files and manifest are written by the job itself.
result_backend = "cis_tasks.broker.results:Backend"  # kept in S3, pushed to who waits
s3_bucket = settings().output_bucket
s3_base_path = settings().results_prefix
result_extended = True  # name and worker beside each state
result_expires = None  # the bucket's lifecycle rule removes old states

# Events: for Flower and `celery events`.
worker_send_task_events = True

# Beat publishes the backlog where queues and groups are named (docs/scaling.md).
beat_scheduler = "cis_tasks.scaling_beat:Scheduler"  # in its own process, not behind the jobs
_publishing = {"task": "cis_tasks.publish_backlog", "schedule": settings().beat_every_s}
_groups = any(name.startswith("CIS_SCALING_GROUP_") for name in environ)
beat_schedule = {"publish-backlog": _publishing} if _groups else {}

# Logs: one line per event, from our own set-up.
worker_hijack_root_logger = False

timezone = "UTC"
