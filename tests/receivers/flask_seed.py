"""The receiver of Vibe Trading's guide: the guide's example as printed, and below it what it takes to run it.

WEBHOOK_SECRET and PORT come from the environment; each event that is verified is appended to the file OUT as a JSON line.
"""

# ---- as printed ------------------------------------------------------------------------------------------------------
from flask import Flask, request, jsonify
import hmac
import hashlib

app = Flask(__name__)

@app.route('/webhook', methods=['POST'])
def handle_webhook():
    # Verify webhook signature
    signature = request.headers.get('X-Webhook-Signature')
    payload = request.get_data()

    if not verify_signature(payload, signature):
        return jsonify({'error': 'Invalid signature'}), 401

    # Process webhook data
    data = request.get_json()
    process_webhook_event(data)

    return jsonify({'status': 'success'}), 200

def verify_signature(payload, signature):
    expected_signature = hmac.new(
        WEBHOOK_SECRET.encode(),
        payload,
        hashlib.sha256
    ).hexdigest()

    return hmac.compare_digest(signature, expected_signature)

def process_webhook_event(data):
    event_type = data['event']

    if event_type == 'order.updated':
        handle_order_update(data['data'])
    elif event_type == 'position.updated':
        handle_position_update(data['data'])
    # Handle other event types...
# ---- end of what is printed ------------------------------------------------------------------------------------------

import json
import os

WEBHOOK_SECRET = os.environ['WEBHOOK_SECRET']


def record(kind, data):
    with open(os.environ['OUT'], 'a', encoding='utf-8') as out:
        out.write(json.dumps({'handled': kind, 'data': data}) + '\n')


def handle_order_update(data):
    record('order.updated', data)


def handle_position_update(data):
    record('position.updated', data)


if __name__ == '__main__':
    app.run(host='127.0.0.1', port=int(os.environ['PORT']))
