/* The measurements of a slice as CSV, with the columns and the rounding of the tables that the Python package writes. */

const FORMULA_MARKS = ['=', '+', '-', '@', '\t', '\r', '\n'], QUOTED = /[,;\t\r\n"]/;

export function toTable(name, measured) {
    const rounded = (value, digits) => value === null ? null : float(Number(value.toFixed(digits)));
    const row = {
        slice: name,
        tumor_found: measured.tumor_found ? 'True' : 'False',
        highest_probability: rounded(measured.highest_probability, 4),
        lesions: measured.lesions.length,
        area_px: measured.area_px,
        area_percent: rounded(measured.area_percent, 3),
        area_mm2: rounded(measured.area_mm2, 2),
        longest_diameter_px: rounded(measured.longest_diameter_px, 2),
        longest_diameter_mm: rounded(measured.longest_diameter_mm, 2),
    };
    return [Object.keys(row), Object.values(row)].map(line => `${line.map(cell).join(',')}\n`).join('');
}

/* As Python writes it: 65.0 where JavaScript writes 65. */
const float = value => `${value}${Number.isInteger(value) ? '.0' : ''}`;

/* Text that a spreadsheet would take for a formula gets an apostrophe before it, as files may have such names. */
function cell(value) {
    if (value === null) return '';
    const isFormula = typeof value === 'string' && FORMULA_MARKS.includes(value[0]);
    const text = `${isFormula ? "'" : ''}${value}`;
    return QUOTED.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
