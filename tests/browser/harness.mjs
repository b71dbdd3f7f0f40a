// What every browser test needs: a Causeway of its own on free ports, browsers with fake devices, pages that carry the
// SDK and stock mediasoup-client, and waiting for a condition instead of sleeping.
import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { readFile, mkdtemp, rm } from 'node:fs/promises';
import dgram from 'node:dgram';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, before } from 'node:test';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.resolve(here, '../..');
const require = createRequire(path.join(root, 'client/package.json'));
const puppeteer = require('puppeteer-core');

export const binary = process.env.CAUSEWAY_BIN ?? path.join(root, 'target/debug/causeway');
export const chromiumPath = '/usr/bin/chromium';
export const firefoxPath = '/usr/bin/firefox-esr';

/** A port that is free for both UDP and TCP on loopback at this moment. */
export async function freePort() {
  for (;;) {
    const tcp = net.createServer();
    await new Promise((done, fail) => tcp.once('error', fail).listen(0, '127.0.0.1', done));
    const { port } = tcp.address();
    const udp = dgram.createSocket('udp4');
    const free = await new Promise((done) => {
      udp.once('error', () => done(false)).bind(port, '127.0.0.1', () => done(true));
    });
    await new Promise((done) => tcp.close(done));
    udp.close();
    if (free && port < 60000) return port;
  }
}

/** Starts the binary in dev mode in a temporary folder; `settings` are `section.key` → value. */
export async function startServer(settings = {}) {
  const [http, media, turn] = [await freePort(), await freePort(), await freePort()];
  const all = {
    'http.listen': `127.0.0.1:${http}`,
    'media.port': media,
    'media.workers': 1,
    'turn.listen': `127.0.0.1:${turn}`,
    ...settings,
  };
  const folder = await mkdtemp(path.join(os.tmpdir(), 'causeway-'));
  const args = ['--dev', ...Object.entries(all).flatMap(([key, value]) => ['--set', `${key}=${value}`])];
  const child = spawn(binary, args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  child.stdout.on('data', (chunk) => (log += chunk));
  child.stderr.on('data', (chunk) => (log += chunk));
  const exited = new Promise((done) => child.once('exit', (code) => done(code)));
  const url = `http://127.0.0.1:${http}`;
  await until('the server answers', async () => {
    if (child.exitCode !== null) throw new Fatal(`the server ended with ${child.exitCode}:\n${log}`);
    return (await fetch(`${url}/healthz`).catch(() => null))?.ok;
  });
  return {
    url,
    ws: `ws://127.0.0.1:${http}/ws`,
    ports: { http, media, turn },
    pid: child.pid,
    log: () => log,
    async token(user, claims = {}) {
      const reply = await fetch(`${url}/dev/token`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ user, ...claims }),
      });
      if (!reply.ok) throw new Error(`no token for ${user}: ${reply.status}`);
      return (await reply.json()).token;
    },
    async stop() {
      child.kill('SIGTERM');
      const code = await Promise.race([exited, sleep(10_000).then(() => 'still running after SIGTERM')]);
      child.kill('SIGKILL');
      await rm(folder, { recursive: true, force: true });
      if (code !== 0) throw new Error(`the server ended with ${code}:\n${log.slice(-4000)}`);
      if (/\bERROR\b|panicked/.test(log)) throw new Error(`the server reported an error:\n${log.slice(Math.max(0, log.search(/\bERROR\b|panicked/) - 500)).slice(0, 4000)}`);
    },
  };
}

/** Serves the test bed (`npm run build:testbed`) on a port of its own, on loopback unless told, so that pages are a secure context. */
export async function startTestbed(address = '127.0.0.1') {
  const folder = path.join(root, 'client/test-dist');
  const types = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.map': 'application/json' };
  const server = createServer(async (request, response) => {
    const name = path.normalize(new URL(request.url, 'http://x').pathname).replace(/^\/+/, '') || 'testbed.html';
    try {
      const body = await readFile(path.join(folder, name));
      response.writeHead(200, { 'content-type': types[path.extname(name)] ?? 'application/octet-stream' });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((done) => server.listen(0, address, done));
  return {
    url: `http://${address}:${server.address().port}/testbed.html`,
    stop: () => {
      server.closeAllConnections();
      return new Promise((done) => server.close(done));
    },
  };
}

/** Headless Chromium with fake cameras (three; the second sees depth, which WebRTC cannot send), microphone (beeps) and screen. */
export function launchChromium(args = [], { grants = true, ...options } = {}) {
  return puppeteer.launch({
    executablePath: chromiumPath,
    ...options,
    headless: true,
    protocolTimeout: 120_000,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required',
      // Without it the browser asks for permission as for anybody, and there is nobody who would grant it.
      ...(grants ? ['--use-fake-ui-for-media-stream'] : ['--deny-permission-prompts']), '--use-fake-device-for-media-stream=device-count=3',
      '--disable-background-timer-throttling', '--disable-renderer-backgrounding',
      '--disable-backgrounding-occluded-windows', '--disable-features=WebRtcHideLocalIpsWithMdns',
      '--allow-loopback-in-peer-connection', ...args,
    ],
  });
}

/** Headless Firefox ESR over WebDriver BiDi, with fake devices. */
export function launchFirefox() {
  return puppeteer.launch({
    browser: 'firefox',
    executablePath: firefoxPath,
    headless: true,
    protocolTimeout: 120_000,
    extraPrefsFirefox: {
      'media.navigator.streams.fake': true,
      'media.navigator.permission.disabled': true,
      'media.autoplay.default': 0,
      'media.peerconnection.ice.loopback': true,
      'media.peerconnection.ice.obfuscate_host_addresses': false,
      'network.proxy.type': 0,
      'network.captive-portal-service.enabled': false,
      'network.connectivity-service.enabled': false,
    },
  });
}

/**
 * What the tests of a file share: a server, the test bed and browsers, given to `ready` before the first test and ended after
 * the last, whatever became of it.
 */
export function setUp(ready, { firefox = false, skip = false, settings = {}, chromiumArgs = [] } = {}) {
  if (skip) return;
  let all;
  before(async () => {
    const starting = { server: startServer(settings), bed: startTestbed(), chromium: launchChromium(chromiumArgs), ...(firefox ? { firefox: launchFirefox() } : {}) };
    all = Object.fromEntries(await Promise.all(Object.entries(starting).map(async ([name, it]) => [name, await it])));
    ready(all);
  });
  after(async () => {
    await all?.firefox?.close();
    await all?.chromium.close();
    await all?.bed.stop();
    await all?.server.stop();
  });
}

/** A page of its own context (its own storage) with the test bed loaded; page errors fail the test that awaits them. */
export async function openPage(browser, url) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  page.errors = [];
  page.on('pageerror', (error) => page.errors.push(String(error)));
  page.on('console', (message) => {
    if (process.env.VERBOSE) console.log(`[page] ${message.text()}`);
  });
  await page.goto(url);
  return page;
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

class Fatal extends Error {}

/** Polls until `condition` is truthy and returns its value; fails with `what` after `limitMs`. */
export async function until(what, condition, limitMs = 20_000) {
  const end = Date.now() + limitMs;
  let last;
  for (;;) {
    try {
      last = await condition();
      if (last) return last;
    } catch (error) {
      if (error instanceof Fatal) throw error;
      last = error;
    }
    if (Date.now() > end) {
      const detail = last instanceof Error ? last.message : JSON.stringify(last);
      throw new Error(`not within ${limitMs / 1000} s: ${what} (last: ${detail})`);
    }
    await sleep(100);
  }
}

/**
 * A UDP proxy in front of the relay or of the media port that can be cut, to take a client's media away: both ways, each
 * datagram. `pass` sees all, with `outward` for those to the client; what it refuses is lost. `address` is where it listens.
 */
export async function startUdpProxy(port, { pass = () => true, address = '127.0.0.1' } = {}) {
  let cut = false;
  const upstreams = new Map();
  const front = dgram.createSocket('udp4');
  front.on('message', (data, from) => {
    if (cut || !pass(data, false)) return;
    const key = `${from.address}:${from.port}`;
    let upstream = upstreams.get(key);
    if (!upstream) {
      upstream = dgram.createSocket('udp4').on('error', () => {});
      upstream.on('message', (reply) => cut || !pass(reply, true) || front.send(reply, from.port, from.address));
      upstreams.set(key, upstream);
    }
    upstream.send(data, port, '127.0.0.1');
  });
  await new Promise((done) => front.bind(0, address, done));
  return {
    address,
    port: front.address().port,
    cut: () => (cut = true),
    heal: () => (cut = false),
    stop() {
      for (const socket of [front, ...upstreams.values()]) socket.close();
    },
  };
}

/** Runs in a page: all its media goes through the relay at this port, and so through a proxy that stands there. */
export function relayThrough(port) {
  const Native = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Native {
    constructor(configuration) {
      // mediasoup-client makes a connection without servers too, only to ask for codecs.
      const relays = (configuration?.iceServers ?? []).filter((server) => server.username);
      const udp = (urls) => [].concat(urls).filter((url) => !url.includes('transport=tcp'));
      const iceServers = relays.map((server) => ({ ...server, urls: udp(server.urls).map((url) => url.replace(/:\d+(?=\?|$)/, `:${port}`)) }));
      super({ ...configuration, iceTransportPolicy: 'relay', iceServers });
    }
  };
}

/** A TCP proxy in front of the server that can be cut, to take a client's signaling away. */
export async function startProxy(port) {
  let cut = false;
  const open = new Set();
  const server = net.createServer((client) => {
    if (cut) return client.destroy();
    const upstream = net.connect(port, '127.0.0.1');
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      open.add(from);
      from.on('error', () => {}).on('close', () => (open.delete(from), to.destroy()));
      from.pipe(to);
    }
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return {
    ws: `ws://127.0.0.1:${server.address().port}/ws`,
    cut() {
      cut = true;
      for (const socket of open) socket.destroy();
    },
    heal: () => (cut = false),
    stop() {
      for (const socket of open) socket.destroy();
      return new Promise((done) => server.close(done));
    },
  };
}
