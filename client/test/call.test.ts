// Call against a scripted server and a peer connection without media: who negotiates when, and what ends a call.
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { Call, IncomingCall, sdpText, sessionOf } from '../src/call';
import type { Signal } from '../src/signal';
import { FakePeer, FakeSocket, FakeTrack, connectedSignal, installDevices, installFakes, media, sdp, settle } from './fakes';

let signal: Signal;
let socket: FakeSocket;
let microphone: FakeTrack;
let camera: FakeTrack;

beforeEach(async () => {
  vi.useFakeTimers();
  installFakes();
  ({ signal, socket } = await connectedSignal());
  [microphone, camera] = [new FakeTrack('audio'), new FakeTrack('video', { deviceId: 'front' })];
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const PEER = 'bob';
const offer = (callId: string, session: number | string = 77, type = 'offer') => ({ type, callId, senderId: PEER, sdp: sdp(session) });
const answer = (callId: string, session: number | string = 77) => offer(callId, session, 'answer');
const candidate = (callId: string, text: string, senderId = PEER) => ({ type: 'ice-candidate', callId, senderId, candidate: { candidate: text, sdpMid: '0' } });

async function say(...messages: Record<string, unknown>[]): Promise<void> {
  for (const message of messages) socket.say(message);
  await settle();
}

/** A call that we placed, answered but not negotiated. */
async function answered(): Promise<Call> {
  const call = await Call.place(signal, PEER, 'video', media(microphone, camera));
  await say({ type: 'call-answered', callId: call.callId, userId: PEER });
  return call;
}

/** A call that we placed and that is up. */
async function caller(): Promise<Call> {
  const call = await answered();
  await say(answer(call.callId));
  FakePeer.last.becomes('connected');
  return call;
}

async function ringing(): Promise<IncomingCall> {
  const rings: IncomingCall[] = [];
  const stop = Call.listen(signal, (incoming) => rings.push(incoming));
  await say({ type: 'incoming-call', callId: 'in', initiatorId: PEER, callType: 'video', recipientIds: ['me'] });
  stop();
  return rings[0]!;
}

/** A call that we took and that is up. */
async function callee(): Promise<Call> {
  const call = await (await ringing()).answer(media(microphone, camera));
  await say(offer(call.callId));
  FakePeer.last.becomes('connected');
  return call;
}

describe('placing a call', () => {
  test('no offer is made before it is answered', async () => {
    const call = await Call.place(signal, PEER, 'video', media(microphone, camera));
    await settle();
    expect(socket.types()).toEqual(['call-initiate']);
    expect(socket.sent[0]).toMatchObject({ callId: call.callId, recipientIds: [PEER], callType: 'video' });
    expect(FakePeer.all).toHaveLength(0);
    await say({ type: 'call-answered', callId: call.callId, userId: PEER });
    expect(socket.of('offer')).toMatchObject([{ callId: call.callId, recipientId: PEER }]);
    expect(FakePeer.last.configuration.iceServers).toEqual([{ urls: 'stun:x' }]);
    expect(call.state).toBe('connecting');
  });

  test('no candidate pool: with one, Chromium restarts ICE with the old credentials', async () => {
    await answered();
    expect(FakePeer.last.configuration.iceCandidatePoolSize).toBe(0);
  });

  test('the browser wants to negotiate before the first answer: one offer is enough', async () => {
    const call = await answered();
    FakePeer.last.onnegotiationneeded!();
    await settle();
    expect(socket.types()).toEqual(expect.not.arrayContaining(['renegotiate']));
    expect(socket.of('offer')).toHaveLength(1);
    await say(answer(call.callId));
    FakePeer.last.onnegotiationneeded!();
    await settle();
    expect(socket.of('renegotiate')).toHaveLength(1);
  });

  test('it is connected when the peer connection is', async () => {
    const call = await caller();
    expect(call.state).toBe('connected');
    expect(FakePeer.last.senders.map((sender) => sender.track)).toEqual([microphone, camera]);
  });

  test('devices that cannot be opened place no call', async () => {
    installDevices({ getUserMedia: () => Promise.reject(new DOMException('', 'NotAllowedError')) });
    await expect(Call.place(signal, PEER, 'audio')).rejects.toMatchObject({ reason: 'NotAllowedError' });
    expect(socket.sent).toEqual([]);
  });

  test('it ends when the server refuses it', async () => {
    const call = await Call.place(signal, PEER, 'audio', media(microphone));
    const ended = call.once('ended');
    await say({ type: 'error', error: 'In use', code: 'call-exists', callId: call.callId });
    expect(await ended).toEqual(['call-exists', undefined]);
    expect(microphone.readyState).toBe('ended');
  });
});

describe('being called', () => {
  test('candidates wait for the offer', async () => {
    const call = await (await ringing()).answer(media(microphone));
    await say(candidate('in', 'early-1'), candidate('in', 'early-2'));
    expect(FakePeer.all).toHaveLength(0);
    await say(offer('in'));
    expect(FakePeer.last.candidates).toMatchObject([{ candidate: 'early-1' }, { candidate: 'early-2' }]);
    await say(candidate('in', 'late'));
    expect(FakePeer.last.candidates).toHaveLength(3);
    expect(socket.types()).toEqual(['call-answer', 'answer']);
    expect(call.state).toBe('connecting');
  });

  test('an offer that came while it rang or while devices open is used once, after the answer', async () => {
    const incoming = await ringing();
    await say(candidate('in', 'while-ringing'));
    let open: (stream: MediaStream) => void = () => undefined;
    installDevices({ getUserMedia: () => new Promise((resolve) => (open = resolve)) });
    const taken = incoming.answer();
    await say(offer('in'));
    expect(FakePeer.all).toHaveLength(0);
    expect(socket.sent).toEqual([]);
    open(media(microphone, camera));
    await taken;
    await settle();
    expect(socket.types()).toEqual(['call-answer', 'answer']);
    expect(FakePeer.all).toHaveLength(1);
    expect(FakePeer.last.candidates).toMatchObject([{ candidate: 'while-ringing' }]);
  });

  test('a voice call is answered without a camera', async () => {
    const rings: IncomingCall[] = [];
    Call.listen(signal, (incoming) => rings.push(incoming));
    await say({ type: 'incoming-call', callId: 'in', initiatorId: PEER, callType: 'audio', recipientIds: ['me'] });
    const getUserMedia = vi.fn(async () => media(microphone));
    installDevices({ getUserMedia });
    await rings[0]!.answer();
    expect(getUserMedia.mock.calls).toMatchObject([[{ video: false }]]);
    await say(offer('in'));
    expect(FakePeer.last.senders.map((sender) => sender.track)).toEqual([microphone]);
  });

  test('whoever rings while we are busy is told so', async () => {
    const rung = vi.fn();
    Call.listen(signal, rung, () => true);
    await say({ type: 'incoming-call', callId: 'in', initiatorId: PEER, callType: 'audio', recipientIds: ['me'] });
    expect(rung).not.toHaveBeenCalled();
    expect(socket.sent).toMatchObject([{ type: 'call-reject', callId: 'in', reason: 'busy' }]);
  });

  test('it is rejected once', async () => {
    const incoming = await ringing();
    incoming.reject();
    incoming.reject();
    expect(socket.sent).toMatchObject([{ type: 'call-reject', callId: 'in', reason: 'declined' }]);
  });

  test('it was answered elsewhere: the ringing ends and can no longer be answered', async () => {
    const incoming = await ringing();
    const ended = incoming.once('ended');
    await say({ type: 'call-ended', callId: 'in', endedBy: 'me', reason: 'answered-elsewhere' });
    expect(await ended).toEqual(['answered-elsewhere']);
    await expect(incoming.answer(media(microphone))).rejects.toThrow('has ended');
    expect(socket.sent).toEqual([]);
    expect(microphone.readyState).toBe('ended');
  });

  test('the caller hangs up while the devices open: no camera stays on', async () => {
    const incoming = await ringing();
    let open: (stream: MediaStream) => void = () => undefined;
    installDevices({ getUserMedia: () => new Promise((resolve) => (open = resolve)) });
    const taken = incoming.answer();
    await say({ type: 'call-ended', callId: 'in', endedBy: PEER, reason: 'hangup' });
    open(media(microphone, camera));
    await expect(taken).rejects.toThrow('has ended');
    expect([microphone, camera].map((track) => track.readyState)).toEqual(['ended', 'ended']);
    expect(socket.sent).toEqual([]);
  });
});

describe('ringing that loses the server', () => {
  /** A call that rings and the reasons for which it stopped. */
  async function ringingAndReasons(): Promise<string[]> {
    const reasons: string[] = [];
    (await ringing()).on('ended', (reason) => reasons.push(reason));
    vi.spyOn(Math, 'random').mockReturnValue(1);
    return reasons;
  }

  test('goes on when the session resumes', async () => {
    const reasons = await ringingAndReasons();
    socket.drop();
    await vi.advanceTimersByTimeAsync(250);
    FakeSocket.last.welcome({ resumed: true });
    await vi.advanceTimersByTimeAsync(30_000);
    expect(reasons).toEqual([]);
  });

  test('ends when the session was forgotten', async () => {
    const reasons = await ringingAndReasons();
    socket.drop();
    await vi.advanceTimersByTimeAsync(250);
    FakeSocket.last.welcome({ sessionId: 's2' });
    expect(reasons).toEqual(['disconnected']);
  });

  test('ends when the server refuses us', async () => {
    const reasons = await ringingAndReasons();
    socket.drop(1008, 'Authentication failed');
    expect(reasons).toEqual(['disconnected']);
  });

  test('ends when the server stays away', async () => {
    const reasons = await ringingAndReasons();
    socket.drop();
    await vi.advanceTimersByTimeAsync(14_999);
    expect(reasons).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    expect(reasons).toEqual(['disconnected']);
  });
});

describe('what is not for us', () => {
  test('messages of another call or another sender change nothing', async () => {
    const call = await caller();
    const before = socket.sent.length;
    await say({ ...offer(call.callId), senderId: 'mallory' }, offer('another'), candidate(call.callId, 'x', 'mallory'));
    await say({ type: 'call-ended', callId: 'another', reason: 'hangup' });
    expect(socket.sent).toHaveLength(before);
    expect(FakePeer.last.candidates).toEqual([]);
    expect(call.state).toBe('connected');
  });

  test('an answer that nobody asked for is ignored', async () => {
    const call = await caller();
    const failed = vi.fn();
    call.on('error', failed);
    await say(answer(call.callId));
    expect(failed).not.toHaveBeenCalled();
  });
});

describe('both renegotiate at once', () => {
  test('the caller is impolite: its own offer stands', async () => {
    const call = await caller();
    FakePeer.last.onnegotiationneeded!();
    await settle();
    await say(offer(call.callId, 77, 'renegotiate'));
    expect(FakePeer.last.rollbacks).toBe(0);
    expect(socket.of('answer')).toEqual([]);
    expect(socket.of('renegotiate')).toHaveLength(1);
    await say(answer(call.callId));
    expect(FakePeer.last.signalingState).toBe('stable');
  });

  test('the callee is polite: it takes its offer back and answers', async () => {
    const call = await callee();
    FakePeer.last.onnegotiationneeded!();
    await settle();
    expect(FakePeer.last.signalingState).toBe('have-local-offer');
    await say(offer(call.callId, 77, 'renegotiate'));
    expect(FakePeer.last.rollbacks).toBe(1);
    expect(socket.of('answer')).toHaveLength(2);
    expect(FakePeer.last.signalingState).toBe('stable');
  });
});

describe('a reload of the other page', () => {
  test('another session id in the offer is another peer connection', async () => {
    const call = await caller();
    const first = FakePeer.last;
    await say(offer(call.callId, 99, 'renegotiate'));
    expect(first.closed).toBe(true);
    expect(FakePeer.all).toHaveLength(2);
    expect(FakePeer.last.senders.map((sender) => sender.track)).toEqual([microphone, camera]);
    expect(socket.of('answer')).toHaveLength(1);
  });

  test('the same session id is the same peer connection', async () => {
    const call = await caller();
    await say(offer(call.callId, 77, 'renegotiate'));
    expect(FakePeer.all).toHaveLength(1);
    expect(socket.of('answer')).toHaveLength(1);
  });

  test('and of ours: rejoining offers anew with the ticket', async () => {
    const { ticket } = await caller();
    expect(ticket).toEqual({ callId: ticket.callId, peerId: PEER, callType: 'video', initiator: true });
    const again = await Call.rejoin(signal, ticket, media(new FakeTrack('audio')));
    expect(socket.of('renegotiate')).toMatchObject([{ callId: ticket.callId, recipientId: PEER }]);
    expect(again.state).toBe('connecting');
  });
});

describe('ICE that fails', () => {
  test('is restarted by the caller, then the call moves to the server', async () => {
    const call = await caller();
    FakePeer.last.becomes('failed');
    await settle();
    expect(call.state).toBe('reconnecting');
    expect(FakePeer.last.restarts).toBe(1);
    expect(socket.of('renegotiate')).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(7_999);
    expect(socket.of('call-upgrade')).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    expect(socket.of('call-upgrade')).toMatchObject([{ callId: call.callId }]);
    expect(FakePeer.last.restarts).toBe(1);
  });

  test('is never restarted by the callee, which waits longer', async () => {
    const call = await callee();
    FakePeer.last.becomes('failed');
    await vi.advanceTimersByTimeAsync(15_999);
    expect(FakePeer.last.restarts).toBe(0);
    expect(socket.of('call-upgrade')).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    expect(socket.of('call-upgrade')).toMatchObject([{ callId: call.callId }]);
  });

  test('that only wavers heals without a restart', async () => {
    const call = await caller();
    FakePeer.last.becomes('disconnected');
    await vi.advanceTimersByTimeAsync(2_900);
    FakePeer.last.becomes('connected');
    await vi.advanceTimersByTimeAsync(60_000);
    expect(FakePeer.last.restarts).toBe(0);
    expect(call.state).toBe('connected');
  });

  test('while signaling is away waits for it', async () => {
    const call = await caller();
    vi.spyOn(Math, 'random').mockReturnValue(1);
    socket.drop();
    FakePeer.last.becomes('failed');
    await settle();
    expect(FakePeer.last.restarts).toBe(0);
    await vi.advanceTimersByTimeAsync(250);
    FakeSocket.last.welcome({ resumed: true });
    await vi.advanceTimersByTimeAsync(3_000);
    expect(FakePeer.last.restarts).toBe(1);
    expect(call.state).toBe('reconnecting');
  });
});

describe('the end', () => {
  test('hanging up stops every capture, the peer connection and all messages', async () => {
    const call = await caller();
    const screen = new FakeTrack('video');
    installDevices({ getDisplayMedia: async () => media(screen) });
    await call.shareScreen();
    const ended = call.once('ended');
    call.hangUp();
    expect(await ended).toEqual(['hangup', 'me']);
    expect([microphone, camera, screen].map((track) => track.readyState)).toEqual(['ended', 'ended', 'ended']);
    expect(FakePeer.last.closed).toBe(true);
    const before = socket.sent.length;
    call.hangUp();
    await say(offer(call.callId, 99, 'renegotiate'));
    expect(socket.sent).toHaveLength(before);
    expect(socket.of('call-end')).toEqual([{ type: 'call-end', callId: call.callId }]);
  });

  test('the other side says why', async () => {
    const call = await caller();
    const ended = call.once('ended');
    await say({ type: 'call-ended', callId: call.callId, endedBy: PEER, reason: 'disconnected' });
    expect(await ended).toEqual(['disconnected', PEER]);
    expect(camera.readyState).toBe('ended');
  });

  test('a session that the server forgot ends the call; one that resumed does not', async () => {
    const call = await caller();
    vi.spyOn(Math, 'random').mockReturnValue(1);
    socket.drop();
    await vi.advanceTimersByTimeAsync(250);
    FakeSocket.last.welcome({ resumed: true });
    expect(call.state).toBe('connected');
    FakeSocket.last.drop();
    await vi.advanceTimersByTimeAsync(250);
    FakeSocket.last.welcome({ sessionId: 's2' });
    expect(call.state).toBe('ended');
  });

  test('a server that refuses us ends the call and releases the devices', async () => {
    const call = await caller();
    socket.drop(1008, 'Authentication failed');
    expect(call.state).toBe('ended');
    expect([microphone, camera].map((track) => track.readyState)).toEqual(['ended', 'ended']);
  });

});

describe('moving to a room', () => {
  const states = (...tracks: FakeTrack[]) => tracks.map((track) => track.readyState);

  /** A call that shares a screen and is told to move. */
  async function sharing(prepare: (call: Call) => void = () => undefined): Promise<{ call: Call; screen: FakeTrack }> {
    const call = await caller();
    const screen = new FakeTrack('video');
    installDevices({ getDisplayMedia: async () => media(screen) });
    await call.shareScreen();
    prepare(call);
    const room = call.once('upgraded');
    await say({ type: 'call-upgraded', callId: call.callId, roomId: 'r' });
    expect(await room).toEqual(['r']);
    return { call, screen };
  }

  test('gives each live track away under its source: a screen is not the camera', async () => {
    const { call, screen } = await sharing();
    expect(call.detach()).toEqual({ microphone, camera, screen });
    expect([FakePeer.last.closed, screen.onended]).toEqual([true, null]);
    call.hangUp();
    expect(states(microphone, camera, screen)).toEqual(['live', 'live', 'live']);
  });

  test('what was muted stays so, and a hidden screen is not brought to light', async () => {
    const { call, screen } = await sharing((call) => (call.setMuted(true), call.setCameraOff(true)));
    expect(call.detach()).toEqual({ microphone, camera });
    expect([microphone.enabled, camera.enabled]).toEqual([false, false]);
    expect(states(microphone, camera, screen)).toEqual(['live', 'live', 'ended']);
  });

  test('a call without a camera gives none', async () => {
    const call = await Call.place(signal, PEER, 'audio', media(microphone));
    expect(call.detach()).toEqual({ microphone });
  });
});

describe('what is sent', () => {
  test('a muted call sends silence, and a camera that is off stays off when it is switched', async () => {
    const call = await caller();
    const back = new FakeTrack('video', { deviceId: 'back' });
    const getUserMedia = vi.fn(async () => media(back));
    installDevices({ getUserMedia, enumerateDevices: async () => ['front', 'back'].map((deviceId) => ({ kind: 'videoinput', deviceId })) });
    call.setMuted(true);
    call.setCameraOff(true);
    expect([microphone.enabled, camera.enabled]).toEqual([false, false]);
    await call.switchCamera();
    expect(getUserMedia.mock.calls[0]).toMatchObject([{ video: { deviceId: { exact: 'back' } } }]);
    expect([back.enabled, back.readyState, camera.readyState]).toEqual([false, 'live', 'ended']);
    expect(FakePeer.last.senders[1]!.track).toBe(back);
    call.setCameraOff(false);
    expect(back.enabled).toBe(true);
  });

  test('a camera that cannot be switched leaves the picture as it is', async () => {
    const call = await caller();
    installDevices({ getUserMedia: () => Promise.reject(new DOMException('', 'NotReadableError')), enumerateDevices: async () => ['front', 'back'].map((deviceId) => ({ kind: 'videoinput', deviceId })) });
    await expect(call.switchCamera()).rejects.toMatchObject({ reason: 'NotReadableError' });
    expect([camera.readyState, FakePeer.last.senders[1]!.track]).toEqual(['live', camera]);
  });

  test('a camera that is switched while a screen is shared waits behind it', async () => {
    const call = await caller();
    const [screen, back] = [new FakeTrack('video'), new FakeTrack('video', { deviceId: 'back' })];
    installDevices({
      getDisplayMedia: async () => media(screen),
      getUserMedia: async () => media(back),
      enumerateDevices: async () => ['front', 'back'].map((deviceId) => ({ kind: 'videoinput', deviceId })),
    });
    await call.shareScreen();
    await call.switchCamera();
    expect(FakePeer.last.senders[1]!.track).toBe(screen);
    await call.stopShare();
    expect([FakePeer.last.senders[1]!.track, screen.readyState]).toEqual([back, 'ended']);
  });

  test('camera off hides a shared screen too', async () => {
    const call = await caller();
    const screen = new FakeTrack('video');
    installDevices({ getDisplayMedia: async () => media(screen) });
    await call.shareScreen();
    call.setCameraOff(true);
    expect([screen.enabled, camera.enabled]).toEqual([false, false]);
  });

  test('a screen in a voice call is added and taken away by renegotiation', async () => {
    const call = await Call.place(signal, PEER, 'audio', media(microphone));
    await say({ type: 'call-answered', callId: call.callId, userId: PEER }, answer(call.callId));
    const screen = new FakeTrack('video');
    installDevices({ getDisplayMedia: async () => media(screen) });
    await call.shareScreen();
    await settle();
    expect(socket.of('renegotiate')).toHaveLength(1);
    expect(FakePeer.last.senders.map((sender) => sender.track)).toEqual([microphone, screen]);
    await say(answer(call.callId));
    await call.stopShare();
    await settle();
    expect(socket.of('renegotiate')).toHaveLength(2);
    expect(screen.readyState).toBe('ended');
  });

  test('a shared screen takes the place of the camera, without renegotiation, until the browser ends it', async () => {
    const call = await caller();
    const screen = new FakeTrack('video');
    installDevices({ getDisplayMedia: async () => media(screen) });
    await call.shareScreen();
    expect(FakePeer.last.senders[1]!.track).toBe(screen);
    expect([call.sharing, camera.readyState]).toEqual([true, 'live']);
    screen.onended!();
    await settle();
    expect(FakePeer.last.senders[1]!.track).toBe(camera);
    expect(call.sharing).toBe(false);
    expect(socket.of('renegotiate')).toEqual([]);
  });

  test('data goes over the channel once it is open', async () => {
    const call = await caller();
    const { channel } = FakePeer.last;
    expect(call.sendData('too early')).toBe(false);
    channel.readyState = 'open';
    expect(call.sendData('now')).toBe(true);
    expect(channel.sent).toEqual(['now']);
    const heard = call.once('data');
    channel.onmessage!({ data: 'hello' });
    expect(await heard).toEqual(['hello']);
  });
});

test('SDP is read as text or as a description, and its origin names the session', () => {
  expect(sdpText('v=0')).toBe('v=0');
  expect(sdpText({ type: 'offer', sdp: 'v=0' })).toBe('v=0');
  expect(sdpText(null)).toBe('');
  expect(sessionOf(sdp(4611731400430051336n.toString()))).toBe('4611731400430051336');
  expect(sessionOf(undefined)).toBe('');
});
