"""What schemathesis has to know of webhookd beyond its description: of the values that a schema lets through, those that are
not refused for another reason. A format names what the schema can't list; some values come from earlier answers, or depend on
who asks.

RECEIVER: where deliveries may go. ROLE: whose key the requests carry (acme, publisher, admin). EVENT, WEBHOOK: what acme has
from the start. KEYS: the ids of the keys in use.
"""

import hashlib
import json
import os
from urllib.parse import urlsplit

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase

RECEIVER, ROLE, EVENT, WEBHOOK, KEYS = (os.environ[name] for name in ("RECEIVER", "ROLE", "EVENT", "WEBHOOK", "KEYS"))
TENANT = "acme"


def networks(version, bits):
    return st.builds("{}/{}".format, st.ip_addresses(v=version), st.integers(0, bits))


FORMATS = {
    # Nothing leaves this machine.
    "uri": st.text("abcdefghijklmnopqrstuvwxyz0123456789-._~/?=&", max_size=20).map(lambda rest: f"{RECEIVER}/{rest}"),
    "tenant": st.just(TENANT),
    "plan": st.sampled_from(["standard", "vibe", "once"]),
    "header-name": st.text("abcdefghijklmnopqrstuvwxyz0123456789", max_size=20).map(lambda rest: f"x-{rest}"),
    "channel": st.integers(0, 299).map(lambda number: f"CHANNEL_{number}"),
    "cidr": networks(4, 32) | networks(6, 128),
    "host": st.sampled_from(["receiver.example", "receiver.example:8443", "192.0.2.1"]),
    "log-level": st.sampled_from(["info", "warn", "webhookd=debug,info"]),
    "future-date-time": st.integers(2100, 9998).map(lambda year: f"{year}-02-28T23:59:59Z"),
}
for name, strategy in FORMATS.items():
    schemathesis.openapi.format(name, strategy)

# The cursors that each listing has given out. One webhook's attempts are another listing than the next one's.
CURSORS = {}


def listing(case):
    return case.operation.path, (case.path_parameters or {}).get("id")


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Closes what answers are made of: a member that is not described is a finding."""
    for name, schema in raw_schema["components"]["schemas"].items():
        if "properties" in schema and not name.endswith("Request"):
            schema.setdefault("additionalProperties", False)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Puts the values in place that only a client in the middle of something has. What is wrong on purpose stays."""
    for location, put in (
        (ParameterLocation.PATH, put_path),
        (ParameterLocation.QUERY, put_query),
        (ParameterLocation.BODY, put_body),
        (ParameterLocation.HEADER, put_headers),
    ):
        if case.meta is None or not case.meta.is_negative_at(location):
            put(case, case.operation.path)


@schemathesis.hook
def after_call(context, case, response):
    if response.status_code == 200 and b'"next_cursor":"' in response.content:
        CURSORS.setdefault(listing(case), []).append(response.json()["pagination"]["next_cursor"])


def is_chained(case):
    """Whether its ids come from the answer to another request."""
    return case.meta is not None and case.meta.phase.name == TestPhase.STATEFUL


def put_path(case, path):
    if "{id}" not in path:
        return
    given = case.path_parameters["id"]
    if case.method == "DELETE":
        # What the others need stays.
        if given in KEYS:
            case.path_parameters = {"id": "key_" + 16 * "0"}
        elif path == "/admin/tenants/{id}" and given in (TENANT, "beta", "operator"):
            case.path_parameters = {"id": "nobody"}
        elif given.replace("-", "").endswith(WEBHOOK[-32:]):
            case.path_parameters = {"id": "wbh_" + 32 * "0"}
    elif path == "/admin/tenants/{id}":
        if case.method == "PUT" and given == "operator":
            case.path_parameters = {"id": TENANT}
    elif not is_chained(case):
        for part, lasting in (("/v1/events/", EVENT), ("webhooks/{id}", WEBHOOK)):
            if part in path:
                case.path_parameters = {"id": lasting}


def put_query(case, path):
    query = dict(case.query or {})
    # An admin has to name a tenant, a tenant may name no other.
    if "tenant" in query or (ROLE == "admin" and "tenant" in case.operation.query):
        query["tenant"] = TENANT
    if query.pop("cursor", None) and CURSORS.get(listing(case)):
        query["cursor"] = CURSORS[listing(case)].pop(0)
    if query != (case.query or {}):
        case.query = query


def put_body(case, path):
    if not isinstance(case.body, dict):
        return
    body = at_home(case.body)
    if path.startswith("/v1/events") and ROLE != "acme":
        for event in body.get("events", [body]):
            event["tenant"] = event.get("tenant") or TENANT
    if "webhookId" in body and not is_chained(case):
        body["webhookId"] = WEBHOOK
    if body != case.body:
        case.body = body


def put_headers(case, path):
    if "Idempotency-Key" in (case.headers or {}):
        # A key belongs to one request.
        told = hashlib.sha256(json.dumps([path, repr(case.body)]).encode()).hexdigest()
        case.headers["Idempotency-Key"] = case.headers["Idempotency-Key"][:191] + told


def at_home(value):
    """The same with every URL of an example leading to the receiver."""
    if isinstance(value, dict):
        return {name: at_home(member) for name, member in value.items()}
    if isinstance(value, list):
        return [at_home(item) for item in value]
    if isinstance(value, str) and value.startswith("https://") and " " not in value:
        return RECEIVER + urlsplit(value).path
    return value
