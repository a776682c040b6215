//! What must not compile, each beside what does.

/// A delivery is settled once.
///
/// ```compile_fail,E0382
/// async fn settle(delivery: fabric::Delivery) -> fabric::Result<()> {
///     delivery.ack().await?;
///     delivery.reject("on second thoughts").await?;
///     Ok(())
/// }
/// ```
///
/// ```
/// async fn settle(delivery: fabric::Delivery) -> fabric::Result<()> {
///     delivery.reject("at once").await?;
///     Ok(())
/// }
/// ```
struct SettledTwice;

/// A typed event is published by value or as an `Arc`: a borrow could not become the subscriber's.
///
/// ```compile_fail,E0277
/// async fn publish<T: fabric::TypedEvent>(fabric: fabric::Fabric, value: T) -> fabric::Result<()> {
///     fabric.publish(&value).await?;
///     Ok(())
/// }
/// ```
///
/// ```
/// async fn publish<T: fabric::TypedEvent>(fabric: fabric::Fabric, value: T) -> fabric::Result<()> {
///     fabric.publish(std::sync::Arc::new(value)).await?;
///     Ok(())
/// }
/// ```
struct PublishedByBorrow;

/// A publish that nobody awaits does nothing, and the compiler says so.
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// async fn publish(fabric: fabric::Fabric) {
///     fabric.publish(fabric::Event::to("orders.created"));
/// }
/// ```
///
/// ```
/// #![deny(unused_must_use)]
/// async fn publish(fabric: fabric::Fabric) -> fabric::Result<fabric::Receipt> {
///     fabric.publish(fabric::Event::to("orders.created")).await
/// }
/// ```
struct NotAwaited;

/// A received delivery is not thrown away by accident.
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// async fn next(mut work: fabric::Subscription) -> fabric::Result<()> {
///     work.recv().await.expect("it is open")?;
///     Ok(())
/// }
/// ```
///
/// ```
/// #![deny(unused_must_use)]
/// async fn next(mut work: fabric::Subscription) -> fabric::Result<()> {
///     work.recv().await.expect("it is open")?.ack().await?;
///     Ok(())
/// }
/// ```
struct ThrownAway;

/// Options, results and capabilities can grow: they are made by their constructors.
///
/// ```compile_fail,E0639
/// let nack = fabric::Nack { delay: None, error: None };
/// ```
///
/// ```
/// let nack = fabric::Nack::now();
/// ```
struct MadeByHand;
