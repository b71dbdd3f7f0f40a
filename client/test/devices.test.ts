// What a person is told when a device cannot be had, and which camera comes next.
import { expect, test, vi } from 'vitest';
import { DeviceError, explainDeviceError, openDevices, openNextCamera, openScreen } from '../src/devices';
import { FakeTrack, installDevices, media } from './fakes';

test.each([
  ['NotAllowedError', /denied/],
  ['NotFoundError', /No camera or microphone was found/],
  ['NotReadableError', /in use by another program/],
  ['OverconstrainedError', /Choose another one/],
  ['AbortError', /stopped while it was being opened/],
  ['SecurityError', /forbids/],
  ['SomethingNewError', /could not be opened/],
])('%s is explained', async (name, words) => {
  const refuse = () => Promise.reject(new DOMException('in the words of the browser', name));
  installDevices({ getUserMedia: refuse, getDisplayMedia: refuse });
  for (const opening of [openDevices({ audio: true }), openScreen()]) {
    const error = await opening.then(() => expect.fail('it did not fail'), (e: unknown) => e as DeviceError);
    expect(error).toBeInstanceOf(DeviceError);
    expect(error).toMatchObject({ reason: name, message: expect.stringMatching(words) as string });
  }
});

test('an explanation is not explained again, and what is no exception is survived', () => {
  const error = new DeviceError('words', 'Reason');
  expect(explainDeviceError(error)).toBe(error);
  expect(explainDeviceError(undefined)).toMatchObject({ reason: 'Error' });
});

test('a page over plain HTTP is told about HTTPS', async () => {
  installDevices(undefined);
  await expect(openDevices({ audio: true })).rejects.toMatchObject({ reason: 'InsecureContext', message: expect.stringContaining('HTTPS') as string });
});

const cameras = (...ids: string[]) => async () => [{ kind: 'audioinput', deviceId: 'mic' }, ...ids.map((deviceId) => ({ kind: 'videoinput', deviceId }))];
const current = (settings: MediaTrackSettings) => new FakeTrack('video', settings) as unknown as MediaStreamTrack;

test.each([['a', 'b'], ['c', 'a']])('after camera %s of three comes %s', async (now, next) => {
  const getUserMedia = vi.fn(async () => media(new FakeTrack('video')));
  installDevices({ getUserMedia, enumerateDevices: cameras('a', 'b', 'c') });
  await openNextCamera(current({ deviceId: now }));
  expect(getUserMedia.mock.calls[0]).toMatchObject([{ video: { deviceId: { exact: next } } }]);
});

test('a phone turns from one facing mode to the other', async () => {
  const getUserMedia = vi.fn(async () => media(new FakeTrack('video')));
  installDevices({ getUserMedia, enumerateDevices: cameras('a', 'b') });
  await openNextCamera(current({ deviceId: 'a', facingMode: 'user' }));
  expect(getUserMedia.mock.calls[0]).toMatchObject([{ video: { facingMode: { ideal: 'environment' } } }]);
});

test('one camera cannot be switched', async () => {
  installDevices({ enumerateDevices: cameras('a') });
  await expect(openNextCamera(current({ deviceId: 'a' }))).rejects.toThrow('only one camera');
});
