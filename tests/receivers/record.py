"""A receiver that accepts everything and writes down what it got: request line, headers as they were sent, body.

PORT and OUT come from the environment; Python's standard library is all it needs.
"""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length'])).decode()
        headers = ''.join(f'{name}: {value}\n' for name, value in self.headers.items())
        with open(os.environ['OUT'], 'a', encoding='utf-8') as out:
            out.write(f'{self.command} {self.path}\n{headers}\n{body}\n\n')
        self.send_response(204)
        self.end_headers()


if __name__ == '__main__':
    ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Receiver).serve_forever()
