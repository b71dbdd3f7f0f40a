// Calls that a firewall blocks: `iceTransportPolicy: "relay"` over TURN/UDP, TURN/TCP and TURN/TLS, to a peer and to the SFU.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { X509Certificate, createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import { after, test } from 'node:test';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort, openPage, setUp, until } from './harness.mjs';

const stock = path.join(path.dirname(fileURLToPath(import.meta.url)), 'stock.js');
let server, bed, chromium;

// A certificate for TURN/TLS that only this Chromium trusts, by the hash of its key.
const folder = mkdtempSync(path.join(os.tmpdir(), 'causeway-tls-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const [cert, key] = ['cert.pem', 'key.pem'].map((name) => path.join(folder, name));
execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
  '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', cert], { stdio: 'ignore' });
const spki = new X509Certificate(readFileSync(cert)).publicKey.export({ type: 'spki', format: 'der' });
const trusted = createHash('sha256').update(spki).digest('base64');

setUp((ready) => ({ server, bed, chromium } = ready), {
  settings: { 'turn.tls.cert': cert, 'turn.tls.key': key, 'turn.tls_listen': `127.0.0.1:${await freePort()}` },
  chromiumArgs: [`--ignore-certificate-errors-spki-list=${trusted}`],
});

async function connected(user) {
  const page = await openPage(chromium, bed.url);
  await page.addScriptTag({ path: stock });
  await page.evaluate(async (ws, token) => {
    window.peer = new StockPeer(Device318);
    await peer.connect(ws, token);
  }, server.ws, await server.token(user));
  return page;
}
const close = (...pages) => Promise.all(pages.map((page) => page.browserContext().close()));

for (const transport of ['udp', 'tcp', 'tls']) {
  test(`to the SFU over TURN/${transport}`, async () => {
    const pages = [await connected('ann'), await connected('bob')];
    for (const page of pages) {
      await page.evaluate(async (room, onlyTransport) => {
        await peer.join(room, { iceTransportPolicy: 'relay', onlyTransport });
        await peer.publish('audio');
        await peer.publish('video', { constraints: { width: 640, height: 360 }, codec: 'video/VP8' });
      }, `relay-${transport}`, transport);
    }
    for (const [page, other] of [[pages[0], 'bob'], [pages[1], 'ann']]) {
      await until(`${other} is decoded through the relay`, async () => {
        const now = await page.evaluate(() => peer.decoded());
        return now[`${other}/camera`]?.frames > 20 && now[`${other}/microphone`]?.energy > 0;
      }, 30_000);
      // A pair whose consent is being checked counts as in progress for a moment.
      let types = [];
      await until('a path for both transports', async () => (types = await page.evaluate(() => peer.candidateTypes())).length >= 2);
      assert.ok(types.every((type) => type === `relay/${transport}`), `all pairs are relayed: ${types}`);
    }
    await close(...pages);
  });

  test(`to a peer over TURN/${transport}`, async () => {
    // Two plain RTCPeerConnections in one page, each with its own user's credentials, both relay-only.
    const [ann, bob] = [await connected('ann'), await connected('bob')];
    const servers = await Promise.all([ann, bob].map((page) => page.evaluate(() => peer.connected.iceServers)));
    await bob.browserContext().close();
    await ann.evaluate(async (servers, scheme, over) => {
      const only = (list) => list
        .map((s) => ({ ...s, urls: [].concat(s.urls).filter((u) => u.startsWith(scheme) && u.includes(`transport=${over}`)) }))
        .filter((s) => s.urls.length);
      const [a, b] = servers.map((s) => new RTCPeerConnection({ iceServers: only(s), iceTransportPolicy: 'relay' }));
      a.onicecandidate = (e) => e.candidate && b.addIceCandidate(e.candidate);
      b.onicecandidate = (e) => e.candidate && a.addIceCandidate(e.candidate);
      b.ontrack = (e) => {
        const v = document.createElement(e.track.kind);
        v.srcObject = new MediaStream([e.track]);
        v.muted = e.track.kind === 'video';
        v.autoplay = true;
        document.body.append(v);
      };
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
      for (const track of stream.getTracks()) a.addTrack(track, stream);
      await a.setLocalDescription();
      await b.setRemoteDescription(a.localDescription);
      await b.setLocalDescription();
      await a.setRemoteDescription(b.localDescription);
      window.pair = [a, b];
    }, servers, ...(transport === 'tls' ? ['turns:', 'tcp'] : ['turn:', transport]));
    await until('frames and audio through the relay', () => ann.evaluate(async () => {
      const reports = [...(await pair[1].getStats()).values()];
      return reports.some((r) => r.framesDecoded > 20) && reports.some((r) => r.totalAudioEnergy > 0);
    }), 30_000);
    const types = await until('the chosen path', () => ann.evaluate(async () => {
      const stats = await pair[0].getStats();
      const chosen = [...stats.values()].find((r) => r.type === 'candidate-pair' && r.nominated && r.state === 'succeeded');
      if (!chosen) return null;
      const local = stats.get(chosen.localCandidateId);
      return [local.candidateType, local.relayProtocol, stats.get(chosen.remoteCandidateId).candidateType];
    }));
    assert.deepEqual(types, ['relay', transport, 'relay']);
    await close(ann);
  });
}
