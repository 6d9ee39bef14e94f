"""The client of Vibe Trading's guide: the guide's functions as printed, and below them what it takes to run them.

Mended is only what can't run, each place with a remark: two names that are used before they have a value, a time that is taken
twice where one is signed, the address, and generate_signature, which the guide does not print.

BASE_URL, API_KEY, SECRET_KEY and WEBHOOK_URL come from the environment; what each function gives back is printed as a JSON line.
"""

import hashlib
import hmac
import json
import os
import time

BASE_URL = os.environ['BASE_URL']


def generate_signature(secret_key, method, path, data, timestamp):
    """Method, path, body and time, one behind the other, under the key; the body as `requests` writes it."""
    body = json.dumps(data) if data else ""
    text = method + path + body + timestamp
    return hmac.new(secret_key.encode(), text.encode(), hashlib.sha256).hexdigest()


# ---- as printed ------------------------------------------------------------------------------------------------------
import requests

def create_webhook(api_key, secret_key, webhook_url, events):
    # Mended: moved above the headers, which sign it.
    webhook_data = {
        "url": webhook_url,
        "events": events,
        "secret": "your_webhook_secret",
        "active": True
    }

    timestamp = str(int(time.time()))  # Mended: one time, sent and signed.
    headers = {
        "X-API-Key": api_key,
        "X-Timestamp": timestamp,
        "X-Signature": generate_signature(secret_key, "POST", "/api/v1/webhooks", webhook_data, timestamp)
    }

    response = requests.post(
        f"{BASE_URL}/api/v1/webhooks",  # Mended: the address.
        headers=headers,
        json=webhook_data
    )

    return response.json()

def list_webhooks(api_key, secret_key):
    timestamp = str(int(time.time()))  # Mended: one time, sent and signed.
    headers = {
        "X-API-Key": api_key,
        "X-Timestamp": timestamp,
        "X-Signature": generate_signature(secret_key, "GET", "/api/v1/webhooks", "", timestamp)
    }

    response = requests.get(
        f"{BASE_URL}/api/v1/webhooks",  # Mended: the address.
        headers=headers
    )

    return response.json()

def update_webhook(api_key, secret_key, webhook_id, updates):
    timestamp = str(int(time.time()))  # Mended: one time, sent and signed.
    headers = {
        "X-API-Key": api_key,
        "X-Timestamp": timestamp,
        # Mended: `update_data` is called `updates` here.
        "X-Signature": generate_signature(secret_key, "PUT", f"/api/v1/webhooks/{webhook_id}", updates, timestamp)
    }

    response = requests.put(
        f"{BASE_URL}/api/v1/webhooks/{webhook_id}",  # Mended: the address.
        headers=headers,
        json=updates
    )

    return response.json()

def delete_webhook(api_key, secret_key, webhook_id):
    timestamp = str(int(time.time()))  # Mended: one time, sent and signed.
    headers = {
        "X-API-Key": api_key,
        "X-Timestamp": timestamp,
        "X-Signature": generate_signature(secret_key, "DELETE", f"/api/v1/webhooks/{webhook_id}", "", timestamp)
    }

    response = requests.delete(
        f"{BASE_URL}/api/v1/webhooks/{webhook_id}",  # Mended: the address.
        headers=headers
    )

    return response.status_code == 204
# ---- end of what is printed ------------------------------------------------------------------------------------------


def show(name, value):
    print(json.dumps({"call": name, "gave": value}), flush=True)


if __name__ == '__main__':
    api_key, secret_key = os.environ['API_KEY'], os.environ['SECRET_KEY']
    # The guide's own call.
    webhook = create_webhook(
        api_key=api_key,
        secret_key=secret_key,
        webhook_url=os.environ['WEBHOOK_URL'],
        events=["order.updated", "position.updated", "signal.generated"]
    )
    show('create', webhook)
    show('list', list_webhooks(api_key, secret_key))
    # The guide's own call, with the id that came back.
    updated = update_webhook(
        api_key=api_key,
        secret_key=secret_key,
        webhook_id=webhook['id'],
        updates={"active": False}
    )
    show('update', updated)
    show('update', update_webhook(api_key, secret_key, webhook['id'], {"active": True, "events": ["order.*"]}))
    show('list', list_webhooks(api_key, secret_key))
    show('delete', delete_webhook(api_key, secret_key, webhook['id']))
    show('list', list_webhooks(api_key, secret_key))
