// Elements that show what we receive, followed as they change: their size, whether they are on the screen, and what they get.
// What follows from it is decided in tiles.ts.
import { Tiles, type Shown, type Wish } from './tiles';

/** A new layer is told before its first picture has been decoded: the size of a picture counts when both have kept still. */
const PICTURE_SETTLES_MS = 500;

export interface Attachable {
  consumerId: string;
  track: MediaStreamTrack;
  /** Spatial layers to choose from. */
  layers: number;
  screen: boolean;
}

interface Attachment {
  element: HTMLMediaElement;
  intersects: boolean;
  detach: () => void;
}

interface Followed {
  layer: number;
  attachments: Set<Attachment>;
  settling: ReturnType<typeof setTimeout> | undefined;
}

export class Attachments {
  readonly #tiles = new Tiles(performance.now());
  readonly #followed = new Map<string, Followed>();
  readonly #attached = new Map<string, Set<() => void>>();
  readonly #ask: (wish: Wish) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #onPage = () => {
    for (const consumerId of this.#followed.keys()) this.#measure(consumerId);
    this.#poll();
  };

  constructor(ask: (wish: Wish) => void) {
    this.#ask = ask;
  }

  /** Binds and follows; what is returned undoes both, and may be called again. */
  attach(source: Attachable, element: HTMLMediaElement): () => void {
    const unbind = bind(source.track, element);
    // Voices are heard wherever their element is.
    const unfollow = source.track.kind === 'video' ? this.#follow(source, element) : undefined;
    const all = this.#attached.get(source.consumerId) ?? new Set();
    this.#attached.set(source.consumerId, all);
    const detach = () => {
      if (!all.delete(detach)) return;
      unfollow?.();
      unbind();
      if (!all.size) this.#attached.delete(source.consumerId);
    };
    all.add(detach);
    return detach;
  }

  /** The consumer is closed. */
  closed(consumerId: string): void {
    const followed = this.#followed.get(consumerId);
    if (followed) this.#forget(consumerId, followed);
    for (const detach of this.#attached.get(consumerId) ?? []) detach();
  }

  /** Another layer is forwarded. */
  layer(consumerId: string, spatialLayer: number | null): void {
    const followed = this.#followed.get(consumerId);
    if (!followed || spatialLayer === null) return;
    followed.layer = spatialLayer;
    // By itself it is no news: until its first picture comes, the last one of the former layer stands there.
    if (followed.settling !== undefined) this.#settle(consumerId, followed);
  }

  /** Its elements are out of sight. What has been detached from all of them is the app's again when it asks. */
  isHidden(consumerId: string): boolean {
    const followed = this.#followed.get(consumerId);
    if (followed && !followed.attachments.size) this.#forget(consumerId, followed);
    return this.#tiles.isPaused(consumerId);
  }

  #follow(source: Attachable, element: HTMLMediaElement): () => void {
    const { consumerId } = source;
    if (!this.#followed.size) document.addEventListener('visibilitychange', this.#onPage);
    this.#tiles.add(consumerId, source.layers, source.screen);
    const followed: Followed = this.#followed.get(consumerId) ?? { layer: source.layers - 1, attachments: new Set(), settling: undefined };
    this.#followed.set(consumerId, followed);

    const changed = () => {
      this.#measure(consumerId);
      this.#poll();
    };
    const pictured = () => this.#settle(consumerId, followed);
    const resize = new ResizeObserver(changed);
    const intersection = new IntersectionObserver((entries) => {
      attachment.intersects = entries.at(-1)?.isIntersecting === true;
      changed();
    });
    const detach = () => {
      resize.disconnect();
      intersection.disconnect();
      element.removeEventListener('resize', pictured);
      for (const event of PICTURE_IN_PICTURE) element.removeEventListener(event, changed);
      followed.attachments.delete(attachment);
      if (this.#followed.get(consumerId) === followed) changed();
    };
    // Seen until the observer says otherwise: its first news comes with the next frame.
    const attachment: Attachment = { element, intersects: true, detach };
    followed.attachments.add(attachment);
    resize.observe(element);
    intersection.observe(element);
    element.addEventListener('resize', pictured);
    for (const event of PICTURE_IN_PICTURE) element.addEventListener(event, changed);
    changed();
    pictured();
    return detach;
  }

  #forget(consumerId: string, followed: Followed): void {
    clearTimeout(followed.settling);
    this.#followed.delete(consumerId);
    this.#tiles.remove(consumerId);
    if (this.#followed.size) return;
    document.removeEventListener('visibilitychange', this.#onPage);
    clearTimeout(this.#timer);
  }

  /** Of several elements of one consumer the largest that can be seen counts; with none it is hidden. */
  #measure(consumerId: string): void {
    const shown = [...(this.#followed.get(consumerId)?.attachments ?? [])].map(measure).filter(({ visible }) => visible);
    const largest = shown.sort((a, b) => b.width * b.height - a.width * a.height)[0];
    this.#tiles.show(performance.now(), consumerId, largest ?? { width: 0, height: 0, visible: false, cover: false });
  }

  #settle(consumerId: string, followed: Followed): void {
    clearTimeout(followed.settling);
    followed.settling = setTimeout(() => {
      followed.settling = undefined;
      const element = [...followed.attachments][0]?.element;
      // A track that is paused shows black of any size.
      if (!(element instanceof HTMLVideoElement) || this.#tiles.isPaused(consumerId)) return;
      this.#tiles.picture(performance.now(), consumerId, followed.layer, element.videoWidth, element.videoHeight);
      this.#poll();
    }, PICTURE_SETTLES_MS);
  }

  #poll(): void {
    clearTimeout(this.#timer);
    for (const wish of this.#tiles.poll(performance.now())) this.#ask(wish);
    const at = this.#tiles.wakeAt();
    // A millisecond more: timers may fire a little early, by the other clock.
    if (at !== undefined) this.#timer = setTimeout(() => this.#poll(), Math.max(0, at - performance.now()) + 1);
  }
}

const PICTURE_IN_PICTURE = ['enterpictureinpicture', 'leavepictureinpicture'];

function measure({ element, intersects }: Attachment): Shown {
  // In a window of its own it is seen whatever becomes of the page.
  const floating = document.pictureInPictureElement === element;
  const ratio = window.devicePixelRatio || 1;
  return {
    width: Math.round(element.clientWidth * ratio),
    height: Math.round(element.clientHeight * ratio),
    visible: floating || (intersects && document.visibilityState !== 'hidden'),
    cover: getComputedStyle(element).objectFit === 'cover',
  };
}

/** Puts the track into the element's stream, in place of another of its kind; a stream that has it already is left alone. */
function bind(track: MediaStreamTrack, element: HTMLMediaElement): () => void {
  const present = element.srcObject instanceof MediaStream ? element.srcObject : undefined;
  if (present?.getTracks().includes(track)) return () => undefined;
  const stream = present ?? new MediaStream();
  for (const other of stream.getTracks()) if (other.kind === track.kind) stream.removeTrack(other);
  stream.addTrack(track);
  element.autoplay = true;
  if (element instanceof HTMLVideoElement) element.playsInline = true;
  if (!present) element.srcObject = stream;
  return () => {
    stream.removeTrack(track);
    if (element.srcObject === stream && !stream.getTracks().length) element.srcObject = null;
  };
}
