// Prints what an operator asks first: start-up time, memory idle, per 1:1 call and per room peer. Not a test: run it by
// hand with `node tests/browser/figures.mjs` after `cargo build --release` and `npm run build:testbed` in client/.
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { binary, freePort, launchChromium, openPage, sleep, startServer, startTestbed, until } from './harness.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const rssKb = (pid) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);
const median = (list) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)];

async function startUpMs() {
  const [http, media, turn] = [await freePort(), await freePort(), await freePort()];
  const folder = mkdtempSync(path.join(os.tmpdir(), 'causeway-'));
  const begin = performance.now();
  const child = spawn(binary, ['--dev', '--set', `http.listen=127.0.0.1:${http}`, '--set', `media.port=${media}`, '--set', `turn.listen=127.0.0.1:${turn}`], { cwd: folder, stdio: 'ignore' });
  while (!(await fetch(`http://127.0.0.1:${http}/readyz`).catch(() => null))?.ok) await sleep(2);
  const took = performance.now() - begin;
  child.kill('SIGTERM');
  await new Promise((done) => child.once('exit', done));
  return took;
}

class Wire {
  static async open(server, user) {
    const wire = new Wire();
    wire.messages = [];
    wire.socket = new WebSocket(server.ws, ['causeway', await server.token(user)]);
    wire.socket.onmessage = (event) => wire.messages.push(JSON.parse(event.data));
    await until('connected', () => wire.messages.length > 0);
    return wire;
  }
  send(message) {
    this.socket.send(JSON.stringify(message));
  }
}

const starts = [];
for (let n = 0; n < 7; n++) starts.push(await startUpMs());
console.log(`start-up until /readyz: median ${median(starts).toFixed(0)} ms`);

if (typeof WebSocket === 'undefined') {
  execFileSync(process.execPath, ['--experimental-websocket', fileURLToPath(import.meta.url)], { stdio: 'inherit' });
  process.exit(0);
}

const server = await startServer();
await sleep(1000);
const idle = rssKb(server.pid);
console.log(`RSS idle: ${idle} kB`);
const calls = 100;
const wires = [];
for (let n = 0; n < calls; n++) {
  const [a, b] = [await Wire.open(server, `a${n}`), await Wire.open(server, `b${n}`)];
  a.send({ type: 'call-initiate', callId: `c${n}`, recipientIds: [`b${n}`], callType: 'video' });
  b.send({ type: 'call-answer', callId: `c${n}` });
  wires.push(a, b);
}
await sleep(1000);
console.log(`RSS per 1:1 call (two sessions, ${calls} calls): ${((rssKb(server.pid) - idle) / calls).toFixed(1)} kB`);
for (const wire of wires) wire.socket.close();
await server.stop();

const rooms = await startServer();
const bed = await startTestbed();
const chromium = await launchChromium();
const before = rssKb(rooms.pid);
const peers = 6;
for (let n = 0; n < peers; n++) {
  const page = await openPage(chromium, bed.url);
  await page.addScriptTag({ path: path.join(here, 'stock.js') });
  await page.evaluate(async (ws, token) => {
    window.peer = new StockPeer(Device318);
    await peer.connect(ws, token);
    await peer.join('figures');
    await peer.publish('audio');
    await peer.publish('video', { constraints: { width: 320, height: 180 }, codec: 'video/VP8' });
  }, rooms.ws, await rooms.token(`p${n}`));
}
await sleep(5000);
console.log(`RSS per room peer (${peers} peers, audio and one video each, all subscribed): ${((rssKb(rooms.pid) - before) / peers).toFixed(0)} kB`);
await chromium.close();
await bed.stop();
await rooms.stop();
