#![no_main]

//! Bytes as a resource. What has the one spelling is, if it is a URL, exactly what the URL standard
//! makes of it: no other implementation takes it for another resource. What lies below something
//! does so in that implementation too.

use identity::delegation::is_within;
use identity::resource;
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let parsed = Url::parse(text).ok();
    let special = parsed.as_ref().filter(|url| url.is_special());
    if resource::check(text).is_ok() {
        if let Some(url) = special {
            assert_eq!(url.as_str(), text);
            assert!(
                url.query().is_none()
                    && url.fragment().is_none()
                    && url.username().is_empty()
                    && url.password().is_none()
            );
        } else if let Some(url) = parsed.as_ref().filter(|url| url.has_authority()) {
            assert_eq!(url.as_str(), text);
        }
        assert!(
            resource::check_prefix(text).is_ok()
                || !text.contains("://")
                || !text[text.find("://").unwrap() + 3..].contains('/')
        );
        assert!(resource::check_exact(text).is_ok());
    }
    // A line and another one: what is said to lie within does not leave it.
    if let Some((granted, wanted)) = text.split_once('\n')
        && is_within(wanted, granted)
        && let (Ok(granted), Ok(wanted)) = (Url::parse(granted), Url::parse(wanted))
        && wanted.is_special()
        && resource::check(granted.as_str()).is_ok()
        && resource::check(wanted.as_str()).is_ok()
    {
        assert_eq!(
            (granted.scheme(), granted.host_str(), granted.port()),
            (wanted.scheme(), wanted.host_str(), wanted.port())
        );
        assert!(
            wanted
                .path()
                .starts_with(granted.path().trim_end_matches('/'))
        );
    }
});
