// What the tiles of a room ask of the server: sizes and visibility in, wishes out. Knows neither DOM nor sockets, and is told
// the time (milliseconds of any clock that does not go back); attach.ts measures, room.ts asks (docs/protocol.md §4).

/** How an element shows its picture: device pixels, not CSS pixels. */
export interface Shown {
  width: number;
  height: number;
  visible: boolean;
  /** `object-fit: cover`: the picture fills the tile and loses its sides; otherwise all of it fits in. */
  cover: boolean;
}

export type Wish =
  | { consumerId: string; type: 'paused'; paused: boolean }
  | { consumerId: string; type: 'layer'; spatialLayer: number }
  | { consumerId: string; type: 'priority'; priority: number };

/** Out of sight for so long before it is paused: who scrolls past or changes tabs for a glance shall not wait for a key frame. */
export const PAUSE_AFTER_MS = 1_500;
/** A larger layer is asked for when the tile has kept still for so long, a smaller one later: sizes that are animated end first. */
export const RAISE_AFTER_MS = 150;
export const LOWER_AFTER_MS = 1_000;
/** A lower layer must be larger than the tile by this before it is chosen, or a tile at the edge would go to and fro. */
const LOWER_MARGIN = 1.15;
/** Requests of a whole room: so many at once, then so many a second. Resuming does not wait for them, but counts. */
export const BURST = 8;
export const PER_SECOND = 5;
/** Until a picture has told its size: what `CAMERA` asks for. */
const ASSUMED = { width: 1280, height: 720 };
/** Shared screens come before every camera, however large that is. */
const SCREEN_PRIORITY = 100;
/** Where priorities begin: the area of 320×180 pixels. Each step is twice the edge. */
const SMALL_AREA = 320 * 180;
const STEPS_MAX = 6;

interface Pending<Value> {
  value: Value;
  at: number;
}

/** One consumer of video. */
class Tile {
  paused = false;
  layer: number;
  priority = 1;
  #shown: Shown = { width: 0, height: 0, visible: true, cover: false };
  #full = ASSUMED;
  #measured = false;
  #hiddenSince: number | undefined;
  #nextLayer: Pending<number> | undefined;
  #nextPriority: Pending<number> | undefined;

  constructor(
    readonly layers: number,
    readonly screen: boolean,
  ) {
    // The server forwards the highest until it is told otherwise.
    this.layer = layers - 1;
  }

  show(now: number, shown: Shown): void {
    this.#shown = shown;
    if (shown.visible) this.#hiddenSince = undefined;
    else this.#hiddenSince ??= now;
    this.#aim(now);
  }

  picture(now: number, width: number, height: number): void {
    if (!(width > 0 && height > 0)) return;
    this.#full = { width, height };
    this.#aim(now);
  }

  #aim(now: number): void {
    const { width, height, visible } = this.#shown;
    // What cannot be seen keeps its layer: it is paused, and comes back as it was.
    if (!visible || width * height === 0) {
      this.#nextLayer = this.#nextPriority = undefined;
      return;
    }
    const first = !this.#measured;
    this.#measured = true;
    const layer = this.#layerFor(first ? 1 : LOWER_MARGIN);
    const raise = layer > this.layer;
    this.#nextLayer = next(this.#nextLayer, this.layer, layer, now + (first ? 0 : raise ? RAISE_AFTER_MS : LOWER_AFTER_MS));
    const priority = this.#priorityFor();
    this.#nextPriority = next(this.#nextPriority, this.priority, priority, now + (first ? 0 : LOWER_AFTER_MS));
  }

  /** The smallest layer that is at least as large as what is shown; each is half of the one above. */
  #layerFor(lowerMargin: number): number {
    const [x, y] = [this.#shown.width / this.#full.width, this.#shown.height / this.#full.height];
    const scale = this.#shown.cover ? Math.max(x, y) : Math.min(x, y);
    const least = (margin: number): number => {
      for (let layer = 0; layer < this.layers - 1; layer++) if (2 ** (layer - this.layers + 1) >= scale * margin) return layer;
      return this.layers - 1;
    };
    const needed = least(1);
    return needed < this.layer ? Math.min(this.layer, least(lowerMargin)) : needed;
  }

  /** Without hysteresis: of tiles of one size none shall come before another. */
  #priorityFor(): number {
    const steps = Math.floor(Math.log2(Math.max(1, (this.#shown.width * this.#shown.height) / SMALL_AREA)) / 2);
    return (this.screen ? SCREEN_PRIORITY : 1) + Math.min(STEPS_MAX, steps);
  }

  /** What is due, most urgent first; `due` is when there will be more. */
  wish(now: number): { type: 'paused'; paused: boolean } | { type: 'layer'; spatialLayer: number } | { type: 'priority'; priority: number } | undefined {
    const hide = this.#hiddenSince !== undefined && now >= this.#hiddenSince + PAUSE_AFTER_MS;
    if (hide && !this.paused) return { type: 'paused', paused: true };
    if (this.#hiddenSince === undefined && this.paused) return { type: 'paused', paused: false };
    if (this.#nextLayer && now >= this.#nextLayer.at) return { type: 'layer', spatialLayer: this.#nextLayer.value };
    if (this.#nextPriority && now >= this.#nextPriority.at) return { type: 'priority', priority: this.#nextPriority.value };
    return undefined;
  }

  granted(wish: NonNullable<ReturnType<Tile['wish']>>): void {
    if (wish.type === 'paused') this.paused = wish.paused;
    else if (wish.type === 'layer') (this.layer = wish.spatialLayer), (this.#nextLayer = undefined);
    else (this.priority = wish.priority), (this.#nextPriority = undefined);
  }

  due(): number | undefined {
    const times = [this.#nextLayer?.at, this.#nextPriority?.at, this.paused && this.#hiddenSince === undefined ? 0 : undefined];
    if (this.#hiddenSince !== undefined && !this.paused) times.push(this.#hiddenSince + PAUSE_AFTER_MS);
    const due = times.filter((time) => time !== undefined);
    return due.length ? Math.min(...due) : undefined;
  }
}

/** Each other value begins to wait anew; back to the present one is nothing to wait for. */
function next<Value>(pending: Pending<Value> | undefined, present: Value, value: Value, at: number): Pending<Value> | undefined {
  if (value === present) return undefined;
  return pending?.value === value ? pending : { value, at };
}

/** All tiles of a room. */
export class Tiles {
  readonly #tiles = new Map<string, Tile>();
  #budget = BURST;
  #filledAt: number;

  constructor(now: number) {
    this.#filledAt = now;
  }

  /** `layers` is the number of spatial layers that the consumer can choose from. */
  add(consumerId: string, layers: number, screen: boolean): void {
    if (!this.#tiles.has(consumerId)) this.#tiles.set(consumerId, new Tile(Math.max(1, layers), screen));
  }

  remove(consumerId: string): void {
    this.#tiles.delete(consumerId);
  }

  show(now: number, consumerId: string, shown: Shown): void {
    this.#tiles.get(consumerId)?.show(now, shown);
  }

  /** A picture of this size came while this layer was forwarded: what size the highest one has follows from it. */
  picture(now: number, consumerId: string, spatialLayer: number, width: number, height: number): void {
    const tile = this.#tiles.get(consumerId);
    if (!tile) return;
    const times = 2 ** Math.max(0, tile.layers - 1 - spatialLayer);
    tile.picture(now, width * times, height * times);
  }

  isPaused(consumerId: string): boolean {
    return this.#tiles.get(consumerId)?.paused === true;
  }

  /** What is to be asked of the server now. Whoever calls asks it. */
  poll(now: number): Wish[] {
    this.#budget = Math.min(BURST, this.#budget + ((now - this.#filledAt) * PER_SECOND) / 1000);
    this.#filledAt = now;
    const wishes: Wish[] = [];
    const grant = (resumes: boolean) => {
      for (const [consumerId, tile] of this.#tiles) {
        for (let wish = tile.wish(now); wish; wish = tile.wish(now)) {
          if ((wish.type === 'paused' && !wish.paused) !== resumes) break;
          if (!resumes && this.#budget < 1) return;
          this.#budget -= 1;
          tile.granted(wish);
          wishes.push({ consumerId, ...wish });
        }
      }
    };
    grant(true);
    grant(false);
    return wishes;
  }

  /** When `poll` will have something, as far as is known now. */
  wakeAt(): number | undefined {
    const due = [...this.#tiles.values()].map((tile) => tile.due()).filter((time) => time !== undefined);
    if (!due.length) return undefined;
    const affordable = this.#filledAt + Math.ceil((Math.max(0, 1 - this.#budget) * 1000) / PER_SECOND);
    return Math.max(affordable, Math.min(...due));
  }
}
