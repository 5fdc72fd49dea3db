// Package report is what a run of xpptp stress comes to: the Result, a stable
// JSON document; its other forms (text, an HTML page, a comparison of two);
// the live view while it runs; expectations that decide the exit status; and
// captures of chosen calls.
//
// Names in the JSON document do not change their meaning within a Version.
// Every number's name ends in its unit: _ms, _us, _s, _pps (packets a second),
// _bps (bits of inside IP a second), _bytes, _percent; what has none is a
// count. There is no NaN and no infinity in it: what was not measured is
// absent, or zero where the name is always there. Percentiles come from
// HdrHistograms, merged and never averaged. schema.json describes every field.
package report
