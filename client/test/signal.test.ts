// Signal against a scripted server: connecting, losing the connection, requests.
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { SignalError } from '../src/messages';
import { FakeSocket, connectedSignal, installFakes, newSignal, settle } from './fakes';

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, 'random').mockReturnValue(1);
  installFakes();
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

/** What a promise was rejected with. */
const failure = (promise: Promise<unknown>) => promise.then(() => expect.fail('it did not fail'), (error: SignalError) => error);

describe('connecting', () => {
  test('the token travels as a subprotocol and never in the URL', async () => {
    const { signal, socket } = await connectedSignal();
    expect(socket.protocols).toEqual(['causeway', 'jwt']);
    expect(socket.url.href).toBe('wss://call.example.org/ws');
    expect(signal).toMatchObject({ state: 'connected', userId: 'me', sessionId: 's1', iceServers: [{ urls: 'stun:x' }] });
  });

  test('a session that was kept from before a reload is asked for', async () => {
    const signal = newSignal({ resume: 'kept' });
    void signal.connect();
    await settle();
    expect(FakeSocket.last.url.searchParams.get('session')).toBe('kept');
  });

  test('an open socket is no session: connect waits for the server’s word, and so does what is sent', async () => {
    const signal = newSignal();
    let ready = false;
    void signal.connect().then(() => (ready = true));
    await settle();
    FakeSocket.last.readyState = 1;
    signal.send({ type: 'call-end', callId: 'c' });
    await settle();
    expect([ready, FakeSocket.last.sent]).toEqual([false, []]);
    FakeSocket.last.welcome();
    await settle();
    expect([ready, FakeSocket.last.types()]).toEqual([true, ['call-end']]);
  });

  test('1008 ends it for good and rejects connect', async () => {
    const signal = newSignal();
    const refused = failure(signal.connect());
    await settle();
    FakeSocket.last.drop(1008, 'Authentication failed');
    expect(await refused).toMatchObject({ code: 'closed', message: 'Authentication failed' });
    await vi.advanceTimersByTimeAsync(60_000);
    expect(FakeSocket.all).toHaveLength(1);
    expect(signal.state).toBe('closed');
    expect(await failure(signal.request('join-room'))).toMatchObject({ code: 'closed' });
  });

  test('a token that no subprotocol can carry is refused, not waited for', async () => {
    class Strict extends FakeSocket {
      constructor(url: string | URL, protocols: string[]) {
        if (protocols.some((protocol) => /\s/.test(protocol))) throw new SyntaxError('invalid subprotocol');
        super(url, protocols);
      }
    }
    const signal = newSignal({ token: () => 'not a token', WebSocket: Strict as never });
    expect(await failure(signal.connect())).toMatchObject({ code: 'closed' });
    expect(signal.state).toBe('closed');
  });

  test('a token that cannot be had now is asked for again', async () => {
    const token = vi.fn().mockRejectedValueOnce(new Error('offline')).mockResolvedValue('fresh');
    const signal = newSignal({ token });
    void signal.connect();
    await settle();
    expect(FakeSocket.all).toHaveLength(0);
    await vi.advanceTimersByTimeAsync(250);
    expect(FakeSocket.last.protocols).toEqual(['causeway', 'fresh']);
  });
});

describe('a lost connection', () => {
  test('is tried again every two seconds while the session may be there, then every ten', async () => {
    const { signal, socket } = await connectedSignal();
    socket.drop();
    expect(signal.state).toBe('reconnecting');
    for (const wait of [250, 500, 1000, ...Array<number>(9).fill(2000), 10_000, 10_000]) {
      const before = FakeSocket.all.length;
      await vi.advanceTimersByTimeAsync(wait - 1);
      expect(FakeSocket.all).toHaveLength(before);
      await vi.advanceTimersByTimeAsync(1);
      expect(FakeSocket.all).toHaveLength(before + 1);
      FakeSocket.last.drop();
    }
  });

  test('resumes its session, and what was said meanwhile is sent in order', async () => {
    const { signal, socket } = await connectedSignal();
    socket.drop();
    signal.send({ type: 'one' });
    signal.send({ type: 'two' });
    await vi.advanceTimersByTimeAsync(250);
    const next = FakeSocket.last;
    expect(next.url.searchParams.get('session')).toBe('s1');
    expect(next.types()).toEqual([]);
    next.welcome({ resumed: true });
    expect(next.types()).toEqual(['one', 'two']);
    expect(signal.state).toBe('connected');
  });

  test('begins its waits anew after a success', async () => {
    const { socket } = await connectedSignal();
    socket.drop();
    await vi.advanceTimersByTimeAsync(250);
    FakeSocket.last.drop();
    await vi.advanceTimersByTimeAsync(500);
    FakeSocket.last.welcome({ resumed: true });
    FakeSocket.last.drop();
    await vi.advanceTimersByTimeAsync(250);
    expect(FakeSocket.all).toHaveLength(4);
  });

  test('is tried at once when the browser is online again', async () => {
    const target = new EventTarget();
    vi.stubGlobal('addEventListener', target.addEventListener.bind(target));
    const { socket } = await connectedSignal();
    socket.drop();
    target.dispatchEvent(new Event('online'));
    await settle();
    expect(FakeSocket.all).toHaveLength(2);
  });

  test('the outbox is bounded and loses the oldest', async () => {
    const { signal, socket } = await connectedSignal();
    socket.drop();
    for (let n = 0; n < 300; n++) signal.send({ type: 'n', n });
    await vi.advanceTimersByTimeAsync(250);
    FakeSocket.last.welcome({ resumed: true });
    const sent = FakeSocket.last.sent.map((message) => message.n);
    expect(sent).toHaveLength(256);
    expect([sent[0], sent.at(-1)]).toEqual([44, 299]);
  });

  test('that comes back as another session drops the outbox and the requests of the lost one', async () => {
    const { signal, socket } = await connectedSignal();
    const asked = failure(signal.request('join-room'));
    socket.drop();
    signal.send({ type: 'stale' });
    await vi.advanceTimersByTimeAsync(250);
    FakeSocket.last.welcome({ sessionId: 's2' });
    expect(FakeSocket.last.sent).toEqual([]);
    expect(await asked).toMatchObject({ code: 'session-lost' });
    expect(signal.sessionId).toBe('s2');
  });

  test('a socket that was given up is no longer heard', async () => {
    const { signal, socket } = await connectedSignal();
    const heard = vi.fn();
    signal.on('message', heard);
    socket.drop();
    await vi.advanceTimersByTimeAsync(250);
    socket.say({ type: 'ghost' });
    FakeSocket.last.welcome({ resumed: true });
    FakeSocket.last.say({ type: 'real' });
    expect(heard.mock.calls.map(([message]) => message.type)).toEqual(['real']);
  });
});

describe('requests', () => {
  test('each gets the answer with its own id', async () => {
    const { signal, socket } = await connectedSignal();
    const [first, second] = [signal.request('a', { x: 1 }), signal.request('b')];
    const [a, b] = socket.sent;
    expect(a).toMatchObject({ type: 'a', x: 1 });
    socket.say({ type: 'response', requestId: b!.requestId, ok: true, data: { n: 2 } });
    socket.say({ type: 'response', requestId: a!.requestId, ok: true });
    socket.say({ type: 'response', requestId: 999, ok: true });
    expect(await Promise.all([first, second])).toEqual([{}, { n: 2 }]);
  });

  test('a refusal carries its code', async () => {
    const { signal, socket } = await connectedSignal();
    const asked = failure(signal.request('consume'));
    socket.say({ type: 'response', requestId: socket.sent[0]!.requestId, ok: false, error: 'Room not found', code: 'room-not-found' });
    expect(await asked).toMatchObject({ code: 'room-not-found', message: 'Room not found' });
  });

  test('no answer is a timeout, and an answer after it is ignored', async () => {
    const { signal, socket } = await connectedSignal();
    const asked = failure(signal.request('produce'));
    await vi.advanceTimersByTimeAsync(15_000);
    expect(await asked).toMatchObject({ code: 'timeout' });
    socket.say({ type: 'response', requestId: socket.sent[0]!.requestId, ok: true });
    expect(signal.state).toBe('connected');
  });

  test('closing rejects them, closes with 1000 and does not come back', async () => {
    const { signal, socket } = await connectedSignal();
    const asked = failure(signal.request('produce'));
    signal.close();
    expect(await asked).toMatchObject({ code: 'closed' });
    expect(socket.closedWith).toBe(1000);
    socket.drop(1000);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(FakeSocket.all).toHaveLength(1);
  });
});

test('an error message is an event, and what is not JSON is ignored', async () => {
  const { signal, socket } = await connectedSignal();
  const [errors, messages] = [vi.fn(), vi.fn()];
  signal.on('error', errors);
  signal.on('message', messages);
  socket.onmessage?.({ data: '{' });
  socket.say({ type: 'error', error: 'Not in this call', code: 'not-in-call', callId: 'c' });
  expect(messages).not.toHaveBeenCalled();
  expect(errors.mock.calls[0]).toMatchObject([{ code: 'not-in-call', message: 'Not in this call' }, { callId: 'c' }]);
});
