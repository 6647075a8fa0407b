// Reads requests with Node's own HTTP server, and says what it saw: as reparse.py does, for the reader "node".
'use strict';
const http = require('node:http');
const net = require('node:net');
const readline = require('node:readline');

const pairs = (raw) => {
  const fields = [];
  for (let at = 0; at < raw.length; at += 2) fields.push([raw[at].toLowerCase(), raw[at + 1]]);
  return fields;
};

// A connection is known by its client's port.
const seen = new Map();

const server = http.createServer({ maxHeaderSize: 1 << 20, keepAliveTimeout: 0 }, (request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const { method, url, rawHeaders, rawTrailers, socket } = request;
    const body = Buffer.concat(chunks).toString('latin1');
    seen.get(socket.remotePort).requests.push({
      method, target: url, fields: pairs(rawHeaders), body, trailers: pairs(rawTrailers),
    });
    response.end();
  });
  request.on('error', () => {});
});
server.maxHeadersCount = 0;
server.on('clientError', (error, socket) => {
  const reading = seen.get(socket.remotePort);
  if (reading) reading.refused = `${error.code}: ${error.message}`;
  socket.destroy();
});

// Sends a stream, ends, and waits until the server has ended too.
const read = (stream) => new Promise((done) => {
  const reading = { requests: [], refused: null };
  const socket = net.connect(server.address().port, '127.0.0.1', () => {
    seen.set(socket.localPort, reading);
    socket.end(Buffer.from(stream, 'latin1'));
  });
  socket.on('error', () => {});
  socket.on('close', () => done(reading));
  socket.resume();
});

server.listen(0, '127.0.0.1', async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { id, stream } = JSON.parse(line);
    console.log(JSON.stringify({ id, reader: 'node', ...(await read(stream)) }));
  }
  server.close();
  server.closeAllConnections();
});
