"""A receiver that verifies each request with the `standardwebhooks` library, and lemon's signature by hand.

SECRET and PORT come from the environment; each event that is verified is appended to the file OUT as a JSON line. What
does not verify is answered with 401.
"""

import hashlib
import hmac
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

SECRET = os.environ['SECRET']


def lemon_verifies(body, header):
    """Whether any v1 of `t=…,v1=…` is the HMAC of time and body under the secret's text."""
    parts = [part.partition('=')[::2] for part in (header or '').split(',')]
    time = next((value for name, value in parts if name == 't'), '')
    expected = hmac.new(SECRET.encode(), time.encode() + b'.' + body, hashlib.sha256).hexdigest()
    return any(name == 'v1' and hmac.compare_digest(value, expected) for name, value in parts)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            event = Webhook(SECRET).verify(body, headers)
        except WebhookVerificationError as error:
            self.answer(401, str(error))
            return
        lemon = lemon_verifies(body, headers.get('lmg-signature'))
        other = lemon_verifies(body, headers.get('lemon-markets-signature'))
        with open(os.environ['OUT'], 'a', encoding='utf-8') as out:
            line = {'id': headers['webhook-id'], 'event': event, 'lemon': lemon, 'lemon_markets': other}
            out.write(json.dumps(line) + '\n')
        self.answer(200, 'verified')

    def answer(self, status, text):
        self.send_response(status)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == '__main__':
    ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Receiver).serve_forever()
