// What tiles ask of the server, by size and visibility; times are milliseconds.
import { beforeEach, describe, expect, test } from 'vitest';
import { BURST, LOWER_AFTER_MS, PAUSE_AFTER_MS, PER_SECOND, RAISE_AFTER_MS, Tiles, type Shown } from '../src/tiles';

let tiles: Tiles;
const shown = (width: number, height: number, more: Partial<Shown> = {}): Shown => ({ width, height, visible: true, cover: false, ...more });
const HIDDEN = shown(0, 0, { visible: false });
/** The wishes at this time, in short; priorities aside, which have tests of their own. */
const asked = (now: number) => tiles.poll(now).filter((wish) => wish.type !== 'priority').map((wish) => (wish.type === 'layer' ? `${wish.consumerId} layer ${wish.spatialLayer}` : `${wish.consumerId} ${wish.type === 'paused' && wish.paused ? 'pause' : 'resume'}`));
const priorities = (now: number) => Object.fromEntries(tiles.poll(now).flatMap((wish) => (wish.type === 'priority' ? [[wish.consumerId, wish.priority]] : [])));

beforeEach(() => {
  tiles = new Tiles(0);
  tiles.add('c', 3, false);
});

describe('the layer is the smallest that is as large as the tile', () => {
  test.each([
    [shown(160, 90), ['c layer 0']],
    [shown(320, 180), ['c layer 0']],
    [shown(321, 181), ['c layer 1']],
    [shown(640, 360), ['c layer 1']],
    [shown(556, 313), ['c layer 1']],
    [shown(641, 361), []],
    [shown(3840, 2160), []],
    // All of the picture is in it, with bars above and below; or its sides are cut, so that the height counts.
    [shown(300, 700), ['c layer 0']],
    [shown(300, 700, { cover: true }), []],
    [shown(0, 0), []],
  ])('%o', (size, wishes) => {
    tiles.show(0, 'c', size);
    expect(asked(0)).toEqual(wishes);
  });

  test('and follows the size of the picture that comes', () => {
    tiles.picture(0, 'c', 1, 960, 540);
    tiles.show(0, 'c', shown(400, 225));
    expect(asked(0)).toEqual(['c layer 0']);
    tiles.picture(10, 'c', 0, 240, 135);
    expect(asked(10)).toEqual([]);
    expect(asked(10 + RAISE_AFTER_MS)).toEqual(['c layer 1']);
    tiles.picture(500, 'c', 1, 0, 0);
    expect(asked(10_000)).toEqual([]);
  });

  test('of a stream with one layer nothing is asked', () => {
    tiles.add('one', 1, false);
    tiles.show(0, 'one', shown(20, 10));
    expect(asked(5000)).toEqual([]);
  });
});

describe('a size that changes', () => {
  test('is waited for, longer when it shrinks', () => {
    tiles.show(0, 'c', shown(160, 90));
    asked(0);
    tiles.show(1000, 'c', shown(1280, 720));
    expect(asked(1000 + RAISE_AFTER_MS - 1)).toEqual([]);
    expect(tiles.wakeAt()).toBe(1000 + RAISE_AFTER_MS);
    expect(asked(1000 + RAISE_AFTER_MS)).toEqual(['c layer 2']);
    tiles.show(3000, 'c', shown(160, 90));
    expect(asked(3000 + LOWER_AFTER_MS - 1)).toEqual([]);
    expect(asked(3000 + LOWER_AFTER_MS)).toEqual(['c layer 0']);
  });

  test('at an edge does not go to and fro', () => {
    tiles.show(0, 'c', shown(320, 180));
    expect(asked(0)).toEqual(['c layer 0']);
    tiles.show(1000, 'c', shown(330, 186));
    expect(asked(2000)).toEqual(['c layer 1']);
    tiles.show(3000, 'c', shown(318, 179));
    expect(asked(9000)).toEqual([]);
    tiles.show(9000, 'c', shown(270, 152));
    expect(asked(10_000)).toEqual(['c layer 0']);
  });

  test('and comes back asks nothing', () => {
    tiles.show(0, 'c', shown(160, 90));
    asked(0);
    tiles.show(1000, 'c', shown(1280, 720));
    tiles.show(1050, 'c', shown(160, 90));
    expect(asked(5000)).toEqual([]);
  });
});

describe('out of sight', () => {
  beforeEach(() => tiles.show(0, 'c', shown(1280, 720)));

  test('for a moment is nothing; for longer it is paused, and resumed at once with the layer that it had', () => {
    asked(0);
    tiles.show(1000, 'c', HIDDEN);
    expect(asked(1000 + PAUSE_AFTER_MS - 1)).toEqual([]);
    tiles.show(2600, 'c', shown(1280, 720));
    tiles.show(2700, 'c', HIDDEN);
    expect(asked(2700 + PAUSE_AFTER_MS - 1)).toEqual([]);
    expect(asked(2700 + PAUSE_AFTER_MS)).toEqual(['c pause']);
    expect(tiles.isPaused('c')).toBe(true);
    expect(tiles.wakeAt()).toBeUndefined();
    tiles.show(9000, 'c', shown(1280, 720));
    expect(asked(9000)).toEqual(['c resume']);
    expect(asked(20_000)).toEqual([]);
  });

  test('being hidden again does not begin anew', () => {
    tiles.show(1000, 'c', HIDDEN);
    tiles.show(2000, 'c', HIDDEN);
    expect(asked(1000 + PAUSE_AFTER_MS)).toEqual(['c pause']);
  });
});

describe('priorities', () => {
  test('are higher for larger tiles, the same for tiles of one size, and highest for screens', () => {
    for (const id of ['twin', 'large', 'screen']) tiles.add(id, 3, id === 'screen');
    for (const id of ['c', 'twin']) tiles.show(0, id, shown(320, 200));
    tiles.show(0, 'large', shown(3840, 2160));
    tiles.show(0, 'screen', shown(320, 200));
    const all = priorities(0);
    expect(all.large).toBeGreaterThan(1);
    expect(all.screen).toBeGreaterThan(all.large!);
    expect([all.c, all.twin]).toEqual([undefined, undefined]);
  });

  test('follow the size when it has settled', () => {
    tiles.show(0, 'c', shown(320, 180));
    expect(priorities(0)).toEqual({});
    tiles.show(100, 'c', shown(1280, 720));
    expect(priorities(100 + LOWER_AFTER_MS - 1)).toEqual({});
    expect(priorities(100 + LOWER_AFTER_MS)).toEqual({ c: 3 });
    tiles.show(5000, 'c', shown(320, 180));
    expect(priorities(9000)).toEqual({ c: 1 });
  });
});

test('many tiles at once do not make more than a few requests a second, but come back at once', () => {
  const ids = Array.from({ length: 40 }, (_, index) => `t${index}`);
  for (const id of ids) {
    tiles.add(id, 3, false);
    tiles.show(0, id, shown(160, 90));
  }
  let sent = 0;
  for (let now: number | undefined = 0, wakes = 0; now !== undefined && wakes < 200; now = tiles.wakeAt(), wakes++) {
    sent += tiles.poll(now).length;
    expect(sent).toBeLessThanOrEqual(BURST + (now * PER_SECOND) / 1000);
  }
  expect(sent).toBe(40);
  for (const id of ids) tiles.show(60_000, id, HIDDEN);
  for (let second = 60; second < 75; second++) asked(second * 1000);
  for (const id of ids) tiles.show(80_000, id, shown(160, 90));
  expect(asked(80_000)).toHaveLength(40);
});

test('what was removed asks nothing', () => {
  tiles.show(0, 'c', shown(160, 90));
  tiles.remove('c');
  tiles.show(1, 'c', HIDDEN);
  tiles.picture(1, 'c', 0, 320, 180);
  expect(asked(10_000)).toEqual([]);
  expect(tiles.wakeAt()).toBeUndefined();
});
