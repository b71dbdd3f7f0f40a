// The web app as people use it: what the binary serves at `/`, driven through its buttons. With SCREENSHOTS=folder every
// screen is also photographed, on a desktop and on a phone.
import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import path from 'node:path';
import { launchChromium, openPage, setUp, startProxy, until } from './harness.mjs';

const DESKTOP = { width: 1280, height: 800 };
const PHONE = { width: 390, height: 844, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
let server, bed, chromium;
const open = new Set();
setUp((ready) => ({ server, bed, chromium } = ready));
afterEach(async () => {
  for (const page of open) {
    if (page.problems?.length) console.log(page.problems);
    await shoot(page, 'last');
    await page.browserContext().close();
  }
  open.clear();
});

const at = (name) => `[data-testid="${name}"]`;

async function signedIn(name, viewport = DESKTOP, browser = chromium, url = server.url) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  open.add(page);
  page.problems = [];
  page.on('pageerror', (error) => page.problems.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && page.problems.push(message.text()));
  await page.setViewport(viewport);
  await page.goto(url);
  await shoot(page, 'sign-in');
  await page.locator(at('sign-in-name')).fill(name);
  await page.locator(at('sign-in')).click();
  await page.waitForSelector(at('callee'));
  await shoot(page, 'home');
  return page;
}

async function shoot(page, name) {
  const folder = process.env.SCREENSHOTS;
  if (!folder) return;
  const { width } = page.viewport();
  await page.screenshot({ path: path.join(folder, `${name}-${width < 600 ? 'phone' : 'desktop'}.png`) });
}

/** Clicks in the page itself: the driver's own click waits for animation frames, which a covered window may not get. */
async function click(page, name) {
  await page.waitForSelector(at(name), { visible: true });
  await page.$eval(at(name), (element) => element.click());
}
const text = (page, name) => page.$eval(at(name), (element) => element.textContent);
const pressed = (page, name) => page.$eval(at(name), (button) => button.getAttribute('aria-pressed'));
const state = (page) => page.$eval(at('status'), (element) => element.dataset.state);

/** The video plays: it has a picture and its clock advances. */
function plays(page, selector, what) {
  let first;
  return until(what, async () => {
    const now = await page.$eval(selector, (video) => ({ width: video.videoWidth, time: video.currentTime })).catch(() => null);
    if (!now?.width) return false;
    first ??= now.time;
    return now.time > first + 0.5;
  });
}

/** The brightness of what a video shows, of 255. */
const brightness = (page, selector) =>
  page.$eval(selector, (video) => {
    const context = Object.assign(document.createElement('canvas'), { width: 16, height: 9 }).getContext('2d');
    context.drawImage(video, 0, 0, 16, 9);
    return context.getImageData(0, 0, 16, 9).data.reduce((sum, value, at) => (at % 4 === 3 ? sum : sum + value), 0) / (16 * 9 * 3);
  });

/** The loudest moment of what a video plays, of one and a half seconds: the fake microphone beeps once a second. */
const loudness = (page, selector) =>
  page.$eval(selector, async (video) => {
    const audio = new AudioContext();
    const analyser = audio.createAnalyser();
    audio.createMediaStreamSource(video.srcObject).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    let loudest = 0;
    for (const end = performance.now() + 1500; performance.now() < end; await new Promise((done) => setTimeout(done, 20))) {
      analyser.getFloatTimeDomainData(samples);
      loudest = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), loudest);
    }
    await audio.close();
    return loudest;
  });

/** What the other side of a call is shown and told, mute and camera-off included. */
async function seenAndHeard(page, selector, what, { seen, heard }) {
  await until(`${what}: ${seen ? 'a picture' : 'black'}`, async () => ((await brightness(page, selector)) > 30) === seen);
  await until(`${what}: ${heard ? 'a voice' : 'silence'}`, async () => ((await loudness(page, selector)) > 0.01) === heard);
}

async function ring(from, to, button) {
  await from.locator(at('callee')).fill(to);
  await click(from, button);
}

function nothingWrong(...pages) {
  for (const page of pages) assert.deepEqual(page.problems, []);
}

test('a video call: ring, answer, see each other, chat, mute, camera off, share, reload, hang up', async () => {
  const [ann, bob] = [await signedIn('ann'), await signedIn('bob', PHONE)];
  await ring(ann, 'bob', 'call-video');
  await bob.waitForSelector(`${at('incoming')}[open]`);
  await shoot(bob, 'incoming');
  await shoot(ann, 'ringing');
  await click(bob, 'accept');
  await plays(ann, at('remote-video'), 'ann sees bob');
  await plays(bob, at('remote-video'), 'bob sees ann');
  await shoot(ann, 'call');
  await shoot(bob, 'call');

  for (const [page, other, words] of [[ann, bob, 'hello bob'], [bob, ann, 'hello ann']]) {
    if (!(await page.$(at('chat-input')))) await click(page, 'chat-toggle');
    await page.locator(at('chat-input')).fill(words);
    await click(page, 'chat-send');
    if (!(await other.$(at('chat-input')))) await click(other, 'chat-toggle');
    await until(`${words} arrives`, async () => (await text(other, 'chat-log')).includes(words));
  }
  await shoot(ann, 'call-chat');
  await shoot(bob, 'call-chat');
  await click(bob, 'chat-toggle');

  await seenAndHeard(bob, at('remote-video'), 'at first', { seen: true, heard: true });
  await click(ann, 'mute');
  await click(ann, 'camera');
  assert.equal(await pressed(ann, 'mute'), 'true');
  assert.equal(await pressed(ann, 'camera'), 'true');
  await seenAndHeard(bob, at('remote-video'), 'muted and the camera off', { seen: false, heard: false });
  await shoot(bob, 'call-camera-off');
  await click(ann, 'camera');
  await click(ann, 'mute');
  await seenAndHeard(bob, at('remote-video'), 'on again', { seen: true, heard: true });
  // The fake screen looks like the fake camera: the browser says which of the two a track is.
  const surface = () => ann.$eval(at('self-video'), (video) => video.srcObject.getVideoTracks()[0]?.getSettings().displaySurface ?? 'camera');
  assert.equal(await surface(), 'camera');
  await click(ann, 'share');
  await until('ann shares', async () => (await surface()) !== 'camera');
  await plays(bob, at('remote-video'), 'bob sees the screen');
  await shoot(ann, 'call-share');
  await click(ann, 'share');
  await until('ann shows the camera again', async () => (await surface()) === 'camera');
  await plays(bob, at('remote-video'), 'bob sees the camera');

  await ann.reload();
  await ann.waitForSelector(at('remote-video'));
  await plays(ann, at('remote-video'), 'ann is back after a reload');
  await plays(bob, at('remote-video'), 'bob sees ann again');
  await click(ann, 'hang-up');
  await Promise.all([ann, bob].map((page) => page.waitForSelector(at('callee'))));
  nothingWrong(ann, bob);
});

test('a voice call, one that is declined, and one to nobody', async () => {
  const [ann, bob] = [await signedIn('ann'), await signedIn('bob')];
  await ring(ann, 'bob', 'call-audio');
  await bob.waitForSelector(`${at('incoming')}[open]`);
  await click(bob, 'accept');
  await until('both are connected', async () => (await state(ann)) === 'connected' && (await state(bob)) === 'connected');
  await click(bob, 'hang-up');
  await ann.waitForSelector(at('callee'));

  await ring(ann, 'bob', 'call-video');
  await bob.waitForSelector(`${at('incoming')}[open]`);
  await click(bob, 'reject');
  await ann.waitForSelector(at('callee'));
  await until('ann is told', async () => /declined/.test(await text(ann, 'toasts')));

  await ring(ann, 'nobody', 'call-video');
  await until('ann is told', async () => /not online/i.test(await text(ann, 'toasts')));
  await ann.waitForSelector(at('callee'));
  nothingWrong(ann, bob);
});

test('a shared screen stays a screen when a third person joins, and the camera is still there', async () => {
  const [ann, bob, cem] = [await signedIn('ann'), await signedIn('bob'), await signedIn('cem')];
  await ring(ann, 'bob', 'call-video');
  await bob.waitForSelector(`${at('incoming')}[open]`);
  await click(bob, 'accept');
  await plays(bob, at('remote-video'), 'bob sees ann');
  await click(ann, 'share');
  await click(ann, 'mute');
  await click(ann, 'invite');
  await ann.locator(at('invite-name')).fill('cem');
  await shoot(ann, 'invite');
  await click(ann, 'invite-send');
  await cem.waitForSelector(`${at('incoming')}[open]`);
  await click(cem, 'accept');
  for (const page of [bob, cem]) {
    await plays(page, `${at('tile-ann-screen')} video`, "ann's screen is seen");
    await plays(page, `${at('tile-ann')} video`, 'ann is seen beside it');
  }
  await until('ann is known to be muted', () => bob.$(`${at('tile-ann')} [aria-label="Muted"]`));
  assert.equal(await pressed(ann, 'share'), 'true');
  assert.equal(await pressed(ann, 'mute'), 'true');
  await click(ann, 'share');
  await until('the screen has gone', async () => !(await bob.$(at('tile-ann-screen'))));
  await plays(bob, `${at('tile-ann')} video`, 'the camera goes on');
  await click(ann, 'mute');
  await until('ann is heard again', async () => !(await bob.$(`${at('tile-ann')} [aria-label="Muted"]`)));
  for (const page of [ann, cem]) await click(page, 'leave');
  await bob.waitForSelector(at('callee'));
  nothingWrong(ann, bob, cem);
});

test('the caller gives up while the devices are being refused: it is said, and nothing breaks', async () => {
  const [ann, bob] = [await signedIn('ann'), await signedIn('bob')];
  await bob.evaluate(() => {
    navigator.mediaDevices.getUserMedia = () => new Promise((_, fail) => (window.refuse = () => fail(new DOMException('Permission denied', 'NotAllowedError'))));
  });
  await ring(ann, 'bob', 'call-video');
  await bob.waitForSelector(`${at('incoming')}[open]`);
  await click(bob, 'accept');
  await click(ann, 'hang-up');
  await until('bob is told', async () => /Missed a call/.test(await text(bob, 'toasts')));
  await bob.evaluate(() => window.refuse());
  await until('bob is told', async () => /has ended/.test(await text(bob, 'toasts')));
  await bob.waitForSelector(at('callee'));
  nothingWrong(ann, bob);
});

/** What is wrong with the stage: tiles outside it or over each other, a last row that is not in the middle, hidden controls. */
const faults = (page) =>
  page.evaluate(() => {
    const found = [];
    const box = (element) => element.getBoundingClientRect();
    const [width, height] = [innerWidth, innerHeight];
    const inside = (r, o) => r.left >= o.left - 1 && r.right <= o.right + 1 && r.top >= o.top - 1 && r.bottom <= o.bottom + 1;
    if (document.documentElement.scrollWidth > width) found.push('the page scrolls sideways');
    for (const button of document.querySelectorAll('.toolbar button')) {
      const r = box(button);
      if (!inside(r, { left: 0, top: 0, right: width, bottom: height }) || r.width < 38 || r.height < 44) found.push(`${button.title} is out of reach`);
    }
    const stage = document.querySelector('.grid');
    const tiles = [...document.querySelectorAll('.grid .tile')].map(box);
    for (const [n, tile] of tiles.entries()) {
      if (!inside(tile, box(stage))) found.push(`tile ${n} leaves the stage`);
      if (tile.width < 80 || tile.height < 80) found.push(`tile ${n} is too small`);
      if (tile.width / tile.height < 0.7 || tile.width / tile.height > 1.9) found.push(`tile ${n} is a strip`);
      for (const other of tiles.slice(n + 1)) {
        if (tile.left < other.right - 1 && other.left < tile.right - 1 && tile.top < other.bottom - 1 && other.top < tile.bottom - 1) found.push(`tile ${n} is covered`);
      }
    }
    const last = tiles.filter((tile) => tile.top === tiles.at(-1)?.top);
    if (last.length) {
      const [left, right] = [last[0].left - box(stage).left, box(stage).right - last.at(-1).right];
      if (Math.abs(left - right) > 2) found.push(`the last row leaves ${left} on the left and ${right} on the right`);
    }
    return found;
  });

test('the stage of one to nine people, with a screen and with the chat, on a desktop and on a phone', async () => {
  const ann = await signedIn('ann');
  await ann.locator(at('room-name')).fill('stage');
  await click(ann, 'join-room');
  await until('ann is in the room', async () => (await state(ann)) === 'joined');
  const crowd = await openPage(chromium, bed.url);
  open.add(crowd);
  const joins = async (name) =>
    crowd.evaluate(async (url, token) => {
      const signal = new Signal({ url, token: () => token });
      await signal.connect();
      window.crowd = [...(window.crowd ?? []), await Room.join(signal, 'stage')];
    }, server.ws, await server.token(name));
  const bothSizes = async (name) => {
    // Not as a phone: that would load the page anew.
    for (const viewport of [{ width: 390, height: 844 }, { width: 320, height: 568 }, DESKTOP]) {
      await ann.setViewport(viewport);
      await until(`${name} looks right at ${viewport.width}`, async () => {
        const found = await faults(ann);
        if (found.length) throw new Error(found.join('; '));
        return true;
      }, 5000);
      if (viewport.width !== 320) await shoot(ann, name);
    }
  };
  await bothSizes('room-1');
  for (let people = 2; people <= 9; people++) {
    await joins(`guest-${people}-with-a-rather-long-name`);
    await until('the guest has a tile', async () => (await ann.$$('.tile')).length === people);
    await bothSizes(`room-${people}`);
    if (people === 2) {
      // The browsers' own microphones beep too briefly to be taken for speech.
      await crowd.evaluate(async () => {
        const audio = new AudioContext();
        const [voice, out] = [new OscillatorNode(audio, { frequency: 300 }), audio.createMediaStreamDestination()];
        voice.connect(out);
        voice.start();
        await window.crowd[0].publish(out.stream.getAudioTracks()[0]);
      });
      await ann.waitForSelector('[data-testid^="tile-guest-2"].speaking [aria-label="Speaking"]');
      await bothSizes('room-speaker');
    }
  }
  await click(ann, 'chat-toggle');
  await bothSizes('room-chat');
  await click(ann, 'chat-toggle');
  await click(ann, 'share');
  await ann.waitForSelector('.tile.screen');
  await bothSizes('room-own-screen');
  // The screen is what people look at: it has most of the stage.
  const share = await ann.$eval('.tile.screen', (tile) => (tile.clientWidth * tile.clientHeight) / (innerWidth * innerHeight));
  assert.ok(share > 0.5, `the screen has ${share} of the window`);
  nothingWrong(ann);
});

test('the connection to the server is lost during a call: it is said, the call goes on, and the notice goes', async () => {
  const proxy = await startProxy(server.ports.http);
  const ann = await signedIn('ann', PHONE, chromium, proxy.ws.replace('ws:', 'http:').replace('/ws', '/'));
  const bob = await signedIn('bob');
  await ring(ann, 'bob', 'call-video');
  await bob.waitForSelector(`${at('incoming')}[open]`);
  await click(bob, 'accept');
  await plays(bob, at('remote-video'), 'bob sees ann');
  proxy.cut();
  await ann.waitForSelector('.banner');
  await shoot(ann, 'reconnecting');
  await plays(ann, at('remote-video'), 'ann still sees bob');
  proxy.heal();
  await until('the notice has gone', async () => !(await ann.$('.banner')));
  await click(bob, 'hang-up');
  await ann.waitForSelector(at('callee'));
  await shoot(ann, 'ended');
  assert.match(await text(ann, 'toasts'), /has ended/);
  nothingWrong(bob);
  await proxy.stop();
});

test('three people in a room', async () => {
  const people = [await signedIn('ann'), await signedIn('bob'), await signedIn('cem', PHONE)];
  for (const page of people) {
    await page.locator(at('room-name')).fill('standup');
    await click(page, 'join-room');
    await page.waitForSelector(at('leave'));
  }
  const names = ['ann', 'bob', 'cem'];
  for (const [index, page] of people.entries()) {
    for (const other of names.filter((_, n) => n !== index)) await plays(page, `${at(`tile-${other}`)} video`, `${names[index]} sees ${other}`);
  }
  await shoot(people[0], 'room');
  await shoot(people[2], 'room');
  await click(people[0], 'chat-toggle');
  await people[0].locator(at('chat-input')).fill('good morning');
  await click(people[0], 'chat-send');
  await click(people[1], 'chat-toggle');
  await until('bob reads it', async () => (await text(people[1], 'chat-log')).includes('good morning'));
  await click(people[1], 'share');
  await plays(people[0], `${at('tile-bob-screen')} video`, "ann sees bob's screen");
  await plays(people[0], `${at('tile-bob')} video`, 'beside bob, whose tile is small now');
  await until('of whom a smaller picture is sent', () => people[0].$eval(`${at('tile-bob')} video`, (video) => video.videoWidth === 320));
  await shoot(people[0], 'room-screen');
  await click(people[2], 'leave');
  await people[2].waitForSelector(at('callee'));
  await until('cem has gone', async () => !(await people[0].$(at('tile-cem'))));
  nothingWrong(...people);
});

test('a device that is refused is explained in words, and the room is joined all the same', async () => {
  const strict = await launchChromium([], { grants: false });
  try {
    const ann = await signedIn('ann', DESKTOP, strict);
    await ring(ann, 'bob', 'call-video');
    await until('the reason is said', async () => /address bar/.test(await text(ann, 'toasts')));
    await shoot(ann, 'device-error');
    assert.equal(await ann.evaluate(() => navigator.permissions.query({ name: 'camera' }).then((permission) => permission.state)), 'denied');
    await ann.locator(at('room-name')).fill('listeners');
    await click(ann, 'join-room');
    await until('ann is in the room', async () => (await state(ann)) === 'joined');
  } finally {
    for (const page of [...open]) if (page.browser() === strict) open.delete(page);
    await strict.close();
  }
});
