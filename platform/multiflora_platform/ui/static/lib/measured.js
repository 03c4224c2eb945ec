/** Sums of measured values; null and undefined are gaps. */

export const known = (values) => values.filter((value) => value !== null && value !== undefined);
export const highest = (values) => (known(values).length ? Math.max(...known(values)) : null);
export const mean = (values) => (known(values).length ? sum(values) / known(values).length : null);
export const sum = (values) => known(values).reduce((total, value) => total + value, 0);

/** Seconds that each point of the series stands for. */
export const intervalOf = (points) => (points.length > 1 ? points[1].at - points[0].at : 1);
