// A receiver that verifies each request with the `standardwebhooks` library for Node, as standard_webhooks.py does for Python.
//
// SECRET and PORT come from the environment; each event that is verified is appended to the file OUT as a JSON line. What does
// not verify is answered with 401. The library is found through NODE_PATH.
'use strict';

const fs = require('fs');
const http = require('http');
const { Webhook } = require('standardwebhooks');

const webhook = new Webhook(process.env.SECRET);

const server = http.createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const body = Buffer.concat(parts).toString('utf8');
    try {
      const event = webhook.verify(body, request.headers);
      fs.appendFileSync(process.env.OUT, `${JSON.stringify({ id: request.headers['webhook-id'], event })}\n`);
      response.writeHead(200).end('verified');
    } catch (error) {
      response.writeHead(401).end(String(error.message));
    }
  });
});
server.listen(Number(process.env.PORT), '127.0.0.1');
