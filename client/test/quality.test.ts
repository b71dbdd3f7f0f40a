// Statistics as Chromium and Firefox shape them, and what they are rated.
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { QualityMonitor, rate, sample, type QualitySample } from '../src/quality';
import { connectedSignal, installFakes } from './fakes';

const audio = { id: 'IA', type: 'inbound-rtp', kind: 'audio', packetsReceived: 500, packetsLost: 2, jitter: 0.004 };
const video = { id: 'IV', type: 'inbound-rtp', kind: 'video', packetsReceived: 1500, packetsLost: 5, jitter: 0.012, frameWidth: 1280, frameHeight: 720, framesPerSecond: 30 };
const chosen = { id: 'CP1', type: 'candidate-pair', nominated: true, state: 'succeeded', currentRoundTripTime: 0.042, availableOutgoingBitrate: 2_500_000 };
const backup = { id: 'CP0', type: 'candidate-pair', nominated: true, state: 'succeeded', currentRoundTripTime: 0.9, availableOutgoingBitrate: 1000 };
const transport = { id: 'T', type: 'transport', selectedCandidatePairId: 'CP1' };

const at = (fields: Partial<QualitySample>): QualitySample => ({ ...sample([]), ...fields });

describe('a sample', () => {
  test('has the totals of both kinds and the pair that the transport selected', () => {
    expect(sample([backup, audio, video, chosen, transport])).toEqual({
      audioPacketsLost: 2, videoPacketsLost: 5, audioJitter: 0.004, videoJitter: 0.012, roundTripTime: 0.042,
      availableBandwidth: 2_500_000, frameWidth: 1280, frameHeight: 720, framesPerSecond: 30, packetsReceived: 2000,
    });
  });

  test('takes the pair that Firefox marks', () => {
    const pairs = [{ ...backup, nominated: false }, { ...chosen, nominated: false, selected: true }];
    expect(sample(pairs).roundTripTime).toBe(0.042);
  });

  test('of several pictures describes the largest, and counts the packets of all', () => {
    const small = { ...video, id: 'IV2', frameWidth: 320, frameHeight: 180, framesPerSecond: 7 };
    expect(sample([video, small])).toMatchObject({ frameWidth: 1280, framesPerSecond: 30, packetsReceived: 3000, videoPacketsLost: 10 });
  });

  test('of nothing is zeroes, and so is what is not a number', () => {
    expect(sample([{ id: 'x', type: 'inbound-rtp', kind: 'audio', packetsLost: NaN, jitter: 'high' }])).toEqual(sample([]));
  });
});

describe('a rating', () => {
  test.each([
    [0, 0.09, 'excellent'], [0, 0.1, 'good'], [10, 0, 'good'], [29, 0.19, 'good'], [30, 0, 'fair'], [0, 0.2, 'fair'], [79, 0.29, 'fair'], [80, 0, 'poor'], [0, 0.3, 'poor'],
  ])('%i of 1000 lost and %f s of round trip are %s', (lost, roundTripTime, expected) => {
    expect(rate(undefined, at({ videoPacketsLost: lost, packetsReceived: 1000 - lost, roundTripTime }))).toBe(expected);
  });

  test('only the last interval counts', () => {
    const bad = at({ audioPacketsLost: 500, packetsReceived: 500 });
    expect(rate(undefined, bad)).toBe('poor');
    expect(rate(bad, at({ audioPacketsLost: 500, packetsReceived: 700 }))).toBe('excellent');
    const good = at({ packetsReceived: 100_000 });
    expect(rate(good, at({ audioPacketsLost: 50, packetsReceived: 100_050 }))).toBe('poor');
  });

  test('totals that shrink, as after a new connection, are no loss', () => {
    expect(rate(at({ audioPacketsLost: 90, packetsReceived: 9000 }), at({ packetsReceived: 10 }))).toBe('excellent');
  });
});

describe('the monitor', () => {
  beforeEach(() => {
    vi.useFakeTimers();
    installFakes();
  });
  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  test('rates every two seconds and reports every ten, until it is stopped', async () => {
    const { signal, socket } = await connectedSignal();
    const monitor = new QualityMonitor(signal, { callId: 'c' }, async () => [audio, video, chosen, transport]);
    const rated = vi.fn();
    monitor.on('rating', rated);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(rated).toHaveBeenCalledTimes(5);
    expect(socket.of('quality-report')).toMatchObject([{ callId: 'c', metrics: { videoPacketsLost: 5, roundTripTime: 0.042, frameWidth: 1280 } }]);
    expect(socket.of('quality-report')[0]!.metrics).not.toHaveProperty('packetsReceived');
    monitor.stop();
    await vi.advanceTimersByTimeAsync(20_000);
    expect(rated).toHaveBeenCalledTimes(5);
  });

  test('outlives statistics that fail', async () => {
    const { signal } = await connectedSignal();
    const getStats = vi.fn().mockRejectedValueOnce(new Error('closed')).mockResolvedValue([audio]);
    const monitor = new QualityMonitor(signal, {}, getStats);
    const rated = vi.fn();
    monitor.on('rating', rated);
    await vi.advanceTimersByTimeAsync(4_000);
    expect(rated).toHaveBeenCalledTimes(1);
    monitor.stop();
  });
});
