// How good a connection is, over the last interval: rates it, tells the server (docs/protocol.md §5).
import { Emitter } from './emitter';
import type { Rating } from './messages';
import type { Signal } from './signal';

/** Totals since the start for counts, seconds for times, bits per second for bandwidth. */
export interface QualityMetrics {
  audioPacketsLost: number;
  videoPacketsLost: number;
  audioJitter: number;
  videoJitter: number;
  roundTripTime: number;
  availableBandwidth: number;
  frameWidth: number;
  frameHeight: number;
  framesPerSecond: number;
}

/** Running totals, from which one interval is the difference of two. */
export interface QualitySample extends QualityMetrics {
  packetsReceived: number;
}

type Stat = Record<string, unknown> & { type: string; id: string };

const number = (value: unknown): number => (typeof value === 'number' && Number.isFinite(value) ? value : 0);

/** Reads one sample from the statistics of a peer connection. */
export function sample(stats: Iterable<Stat>): QualitySample {
  const all = new Map([...stats].map((stat) => [stat.id, stat]));
  const out: QualitySample = {
    audioPacketsLost: 0, videoPacketsLost: 0, audioJitter: 0, videoJitter: 0, roundTripTime: 0, availableBandwidth: 0,
    frameWidth: 0, frameHeight: 0, framesPerSecond: 0, packetsReceived: 0,
  };
  for (const stat of all.values()) {
    if (stat.type !== 'inbound-rtp') continue;
    out.packetsReceived += number(stat.packetsReceived);
    if (stat.kind === 'audio') {
      out.audioPacketsLost += number(stat.packetsLost);
      out.audioJitter = Math.max(out.audioJitter, number(stat.jitter));
    } else {
      out.videoPacketsLost += number(stat.packetsLost);
      out.videoJitter = Math.max(out.videoJitter, number(stat.jitter));
      if (number(stat.frameWidth) >= out.frameWidth) {
        out.frameWidth = number(stat.frameWidth);
        out.frameHeight = number(stat.frameHeight);
        out.framesPerSecond = number(stat.framesPerSecond);
      }
    }
  }
  const pair = nominatedPair(all);
  out.roundTripTime = number(pair?.currentRoundTripTime);
  out.availableBandwidth = number(pair?.availableOutgoingBitrate);
  return out;
}

/** The pair that carries media: the transport names it; Firefox marks it `selected`. */
function nominatedPair(stats: Map<string, Stat>): Stat | undefined {
  for (const stat of stats.values()) {
    if (stat.type === 'transport' && typeof stat.selectedCandidatePairId === 'string') return stats.get(stat.selectedCandidatePairId);
  }
  return [...stats.values()].find((s) => s.type === 'candidate-pair' && (s.selected === true || (s.nominated === true && s.state === 'succeeded')));
}

/** The rating of the interval between two samples. */
export function rate(before: QualitySample | undefined, now: QualitySample): Rating {
  const lost = Math.max(0, now.audioPacketsLost + now.videoPacketsLost - ((before?.audioPacketsLost ?? 0) + (before?.videoPacketsLost ?? 0)));
  const received = Math.max(0, now.packetsReceived - (before?.packetsReceived ?? 0));
  const loss = lost + received > 0 ? lost / (lost + received) : 0;
  const rtt = now.roundTripTime;
  if (loss < 0.01 && rtt < 0.1) return 'excellent';
  if (loss < 0.03 && rtt < 0.2) return 'good';
  if (loss < 0.08 && rtt < 0.3) return 'fair';
  return 'poor';
}

/** How often the rating is renewed; every [[REPORT_EVERY]]th sample is reported. */
const SAMPLE_MS = 2_000;
const REPORT_EVERY = 5;

export interface QualityTarget {
  callId?: string;
  roomId?: string;
}

/** Samples `getStats` until it is stopped. */
export class QualityMonitor extends Emitter<{ rating: [rating: Rating, metrics: QualityMetrics] }> {
  readonly #timer: ReturnType<typeof setInterval>;
  #before?: QualitySample;
  #count = 0;
  #busy = false;

  constructor(signal: Signal, target: QualityTarget, getStats: () => Promise<Iterable<Stat> | undefined>) {
    super();
    this.#timer = setInterval(() => void this.#tick(signal, target, getStats), SAMPLE_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.removeListeners();
  }

  async #tick(signal: Signal, target: QualityTarget, getStats: () => Promise<Iterable<Stat> | undefined>): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    try {
      const stats = await getStats();
      if (!stats) return;
      const now = sample(stats);
      this.emit('rating', rate(this.#before, now), now);
      this.#before = now;
      if (++this.#count % REPORT_EVERY === 0 && signal.state === 'connected') {
        const { packetsReceived: _, ...metrics } = now;
        signal.send({ type: 'quality-report', ...target, metrics });
      }
    } catch {
      // The connection closed under us: the owner stops the monitor.
    } finally {
      this.#busy = false;
    }
  }
}
