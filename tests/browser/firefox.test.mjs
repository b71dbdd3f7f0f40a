// Firefox ESR and Chromium in one room, both decoding the other.
import { test } from 'node:test';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { firefoxPath, openPage, setUp, until } from './harness.mjs';

const stock = path.join(path.dirname(fileURLToPath(import.meta.url)), 'stock.js');
const skip = existsSync(firefoxPath) ? false : 'firefox-esr is not installed';
let server, bed, chromium, firefox;
setUp((ready) => ({ server, bed, chromium, firefox } = ready), { firefox: true, skip });

async function joined(browser, user, room, device) {
  const page = await openPage(browser, bed.url);
  await page.addScriptTag({ path: stock });
  await page.evaluate(async (ws, token, device, room) => {
    window.peer = new StockPeer(window[device]);
    await peer.connect(ws, token);
    await peer.join(room);
    await peer.publish('audio');
    await peer.publish('video', { constraints: { width: 640, height: 480 }, codec: 'video/VP8' });
  }, server.ws, await server.token(user), device, room);
  return page;
}

for (const device of ['Device318', 'Device324']) {
  test(`Firefox ESR meets Chromium, ${device}`, { skip }, async () => {
    const fox = await joined(firefox, 'fox', `mixed-${device}`, device);
    const chrome = await joined(chromium, 'chrome', `mixed-${device}`, device);
    for (const [page, other] of [[fox, 'chrome'], [chrome, 'fox']]) {
      await until(`${other} is decoded`, async () => {
        const now = await page.evaluate(() => peer.decoded());
        return now[`${other}/camera`]?.frames > 20 && now[`${other}/microphone`]?.packets > 50;
      }, 30_000);
    }
    await fox.browserContext().close();
    await chrome.browserContext().close();
  });
}
